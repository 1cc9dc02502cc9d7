import pytest
from audit_toys import records, report
from matplotlib import image

from hf_dtl.audit import plot_comparison, plot_piggyback, plots
from hf_dtl.errors import DataError


@pytest.fixture
def figures(monkeypatch):
    drawn, save = [], plots._save
    monkeypatch.setattr(plots, "_save", lambda figure, path: drawn.append(figure) or save(figure, path))
    return drawn


def test_piggyback_plot_shows_the_numbers_of_the_report(tmp_path, figures):
    found = report(method="gradient_collision.v2")
    png, svg = plot_piggyback(found, tmp_path / "plots" / "piggyback.v2")
    assert (png.name, svg.name) == ("piggyback.v2.png", "piggyback.v2.svg")
    assert min(image.imread(png).shape[:2]) > 500 and svg.read_text().startswith("<?xml")
    panels = figures[0].axes
    assert [p.get_title() for p in panels] == ["source subset: mnist[0-5]", "novel task: fashion_mnist"]
    drawn = {c.get_label(): list(c.lines[0].get_ydata()) for c in panels[0].containers}
    assert drawn == {
        point: pytest.approx([p.mean for p in found.axes["source_subset"].pl_accuracy if p.model == point])
        for point in ("undisposed", "scrubbed", "scratch", "retrained")
    }
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["5", "20"]
    assert "class" in panels[0].get_xlabel() and "test split" in panels[0].get_ylabel()
    assert [t.get_text() for t in figures[0].legends[0].get_texts()][-1] == "chance"


def test_the_same_report_gives_the_same_bytes(tmp_path):
    first, second = (plot_piggyback(report(), tmp_path / name) for name in "ab")
    assert [a.read_bytes() == b.read_bytes() for a, b in zip(first, second, strict=True)] == [True, True]


def test_comparison_plot_names_every_method_also_those_without_a_number(tmp_path, figures):
    undefined = report(method="unknown", piggyback=tuple(records({("scrubbed", 5): [0.5, 0.5]})))
    several = [report(), report(method="negative_ce", target=(0.95, 0.5)), undefined]
    assert all(path.stat().st_size for path in plot_comparison(several, tmp_path / "comparison"))
    labels = [t.get_text() for t in figures[0].legends[0].get_texts()]
    assert {"gradient_collision", "negative_ce †"} < set(labels) and "unknown" not in labels
    note = figures[0].axes[0].get_title()
    assert "undefined: unknown" in note and "destroyed" in note


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(DataError):
        plot_comparison([], tmp_path / "x")
    with pytest.raises(DataError):
        plot_piggyback(report(piggyback=tuple(records({("scratch", 5): [0.5]}))), tmp_path / "x")
