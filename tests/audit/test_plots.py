import io
from dataclasses import replace
from itertools import combinations

import pytest
from audit_toys import ATTACKS, LONG_NAMES, large_report, records, report, tasks_report
from matplotlib import image, rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from hf_dtl.audit import plot_attacks, plot_comparison, plot_piggyback
from hf_dtl.audit.plots.attacks import draw_attacks
from hf_dtl.audit.plots.look import COLOURS, MARKERS, STYLES, wrapped
from hf_dtl.audit.plots.methods import draw_comparison
from hf_dtl.audit.plots.piggyback import draw_piggyback
from hf_dtl.audit.plots.tasks import draw_tasks
from hf_dtl.errors import DataError

ONE_AXIS = report(piggyback=tuple(r for r in report().piggyback if r.axis == "source_subset"))
ONE_SEED = report("one_seed", piggyback=tuple(r for r in large_report().piggyback if r.seed == 0 and r.budget == 20))
UNMEASURED = large_report("unmeasured:alpha=0.9", 0.3, target=(None, None))
DESTROYED = large_report("noise_then_distil:alpha=0.9,steps=600,and=more", 0.1, target=(0.893, 0.4))
UNDEFINED = large_report("undefined", gap=0.001)
NOISY = large_report("noisy", 0.6, gap=0.08, noise=0.05)
METHODS = (
    *("gradient_collision", "gradient_collision:chunking=random,normalize=True", "negative_ce", "random_fooling"),
    *(
        "uniform_fooling",
        "projected_gradient:threshold=0.95",
        "erasing_probes:steps=600",
        "noise_then_distil:alpha=0.9",
    ),
)
LEAKAGES, TARGETS = (
    (0.94, 0.95, 0.93, 0.93, 0.94, 0.4, 0.05, -0.1),
    (0.885, 0.885, 0.893, 0.893, 0.89, 0.87, 0.88, 0.55),
)
EIGHT = [large_report(m, s, target=(0.893, t)) for m, s, t in zip(METHODS, LEAKAGES, TARGETS, strict=True)]
SPREAD = [large_report(m, s, target=(0.893, t)) for m, s, t in (("a", 0.1, 0.89), ("b", 0.5, 0.85), ("c", 0.9, 0.7))]

SINGLE = {
    "toy": report(), "one axis": ONE_AXIS, "large": large_report(), "one seed": ONE_SEED, "unmeasured": UNMEASURED,
    "destroyed": DESTROYED, "undefined": UNDEFINED, "noisy": NOISY,
}  # fmt: skip
FIGURES = {
    **{f"piggyback, {name}": (draw_piggyback, found) for name, found in SINGLE.items()},
    **{f"attacks, {name}": (draw_attacks, found) for name, found in SINGLE.items()},
    **{f"comparison, {name}": (draw_comparison, [found]) for name, found in SINGLE.items()},
    "comparison, eight": (draw_comparison, EIGHT),
    "comparison, spread": (draw_comparison, SPREAD),
    "comparison, mixed": (draw_comparison, [*SPREAD, UNMEASURED, UNDEFINED, DESTROYED, NOISY]),
}


def texts(figure):
    """Every text that is drawn, with its box in pixels."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    found = [figure._suptitle]
    for legend in figure.legends:
        found += [*legend.get_texts(), legend.get_title()]
    for panel in figure.axes:
        found += [panel.title, panel.xaxis.label, panel.yaxis.label, *panel.texts]
        for axis, limits in ((panel.xaxis, panel.get_xlim()), (panel.yaxis, panel.get_ylim())):
            low, high = sorted(limits)
            found += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in found if t.get_visible() and t.get_text().strip()]


@pytest.mark.parametrize("case", FIGURES)
def test_no_text_touches_another_or_leaves_the_picture(case):
    draw, given = FIGURES[case]
    figure = draw(given)
    drawn = texts(figure)
    for (first, box), (second, other) in combinations(drawn, 2):
        assert not box.overlaps(other), (first, second)
    for text, box in drawn:
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
        assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
    # Relearning is never shown without a word on the target.
    assert any("target accuracy" in text for text, _ in drawn)
    assert any("Attacked by custom, weaker than a practitioner." in text for text, _ in drawn)


def test_scores_of_several_tasks_stand_apart_and_no_text_touches_another():
    reports = [tasks_report(), tasks_report("multitask:strategy=scrub:min_phase=1")]
    figure = draw_tasks(reports)
    drawn = texts(figure)
    for (first, box), (second, other) in combinations(drawn, 2):
        assert not box.overlaps(other), (first, second)
    assert [panel.get_ylabel() for panel in figure.axes] == ["forget score", "retain score", "test score"]
    heights = {line.get_label(): list(line.get_ydata()) for line in figure.axes[0].lines}
    assert heights["multitask"] == [0.8, 0.8, -0.2] and heights["undisposed"] == [0.95, 0.95, -0.2]
    assert "case\n(to forget)" in [text for text, _ in drawn]


@pytest.mark.parametrize(
    ("plot", "given", "labels"),
    [
        (plot_piggyback, DESTROYED, ["target accuracy 0.893 → 0.400 † destroyed", "training images per class", "100"]),
        (plot_attacks, large_report(), [*ATTACKS[:-3], "full_large_lr ‡", "as retrained", "leakage over retrained"]),
        (plot_comparison, EIGHT, ["noise_then_distil:alpha=0.9 †", "target accuracy on the test split", "leaks all"]),
    ],
)
def test_files_hold_the_labels_and_repeat_byte_for_byte(tmp_path, plot, given, labels):
    first, second = plot(given, tmp_path / "plots" / "picture.v2"), plot(given, tmp_path / "again")
    assert [path.name for path in first] == ["picture.v2.png", "picture.v2.svg"]
    assert [a.read_bytes() for a in first] == [b.read_bytes() for b in second]
    assert min(image.imread(first[0]).shape[:2]) > 500
    svg = first[1].read_text()
    assert svg.startswith("<?xml") and "<dc:title>" in svg
    for label in labels:
        assert f"<!-- {label} -->" in svg, label


def test_piggyback_plot_shows_the_numbers_of_the_report():
    found = report(method="gradient_collision.v2")
    figure = draw_piggyback(found)
    panels = figure.axes
    assert [p.get_title() for p in panels] == ["source subset: mnist[0-5]", "novel task: fashion_mnist"]
    drawn = {c.get_label(): list(c.lines[0].get_ydata()) for c in panels[0].containers}
    assert drawn == {
        point: pytest.approx([p.mean for p in found.axes["source_subset"].pl_accuracy if p.model == point])
        for point in ("undisposed", "scrubbed", "scratch", "retrained")
    }
    assert [label.get_text() for label in panels[0].get_xticklabels()] == ["5", "20"]
    assert "class" in panels[0].get_xlabel() and "test split" in panels[0].get_ylabel()
    assert [t.get_text() for t in figure.legends[0].get_texts()][-1] == "chance"
    assert [label.get_text() for label in draw_piggyback(large_report()).axes[0].get_xticklabels()] == [
        *("1", "5", "20", "100")
    ]


def points(panel):
    """Points of a panel by height: the marker and the place of what has a white edge."""
    lines = [line for line in panel.lines if line.get_markeredgecolor() == "white"]
    return {float(line.get_ydata()[0]): (float(line.get_xdata()[0]), line.get_marker()) for line in lines}


def test_attacks_plot_shows_every_leakage_the_interval_and_the_strongest():
    found = large_report()
    figure = draw_attacks(found)
    for panel, axis in zip(figure.axes, found.axes.values(), strict=True):
        drawn = points(panel)
        assert drawn.pop(0.0) == (pytest.approx(axis.over(found.floor).mean), "s")
        for y, attack in enumerate(ATTACKS, start=1):
            if attack not in axis.by_attack:
                assert y not in drawn
                continue
            marker = "D" if attack == axis.strongest_by_attack else "o"
            assert drawn[y] == (pytest.approx(axis.by_attack[attack].mean), marker)
        whisker = next(line for line in panel.lines if line.get_solid_capstyle() == "butt")
        assert list(whisker.get_xdata()) == pytest.approx([axis.over(found.floor).low, axis.over(found.floor).high])
        assert {0.0, 1.0} <= {line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == ":"}
    assert [t.get_text() for t in figure.axes[1].texts].count("not run") == 4


@pytest.mark.parametrize(
    ("found", "words"),
    [(ONE_SEED, "undefined: one seed"), (UNDEFINED, "weights do not matter"), (NOISY, "unresolved: more draws")],
)
def test_an_undefined_leakage_is_a_word_and_no_point(found, words):
    panel = draw_attacks(found).axes[0]
    assert points(panel) == {} and words in [t.get_text() for t in panel.texts]
    assert "bounds" not in "".join(t.get_text() for t in draw_attacks(found).legends[0].get_texts())
    figure = draw_comparison([found])
    assert points(figure.axes[0]) == {}
    assert f"leakage undefined: {found.method}" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_a_long_interval_ends_in_an_arrow():
    values = {("undisposed", 5): [0.9] * 3, ("scratch", 5): [0.4] * 3, ("scrubbed", 5): [0.1, 0.6, 1.0]}
    long = report(piggyback=tuple(records(values)))
    assert long.headline.high - long.headline.low > 2
    for figure in (draw_attacks(long), draw_comparison([long])):
        panel = figure.axes[0]
        ends = {line.get_marker(): line.get_xdata()[0] for line in panel.lines if line.get_marker() in ("<", ">")}
        left, right = panel.get_xlim()
        assert left < ends["<"] < left + 0.05 and right - 0.05 < ends[">"] < right
        assert "interval goes on beyond the picture" in [t.get_text() for t in figure.legends[0].get_texts()]


def test_comparison_labels_points_where_there_is_room_and_else_in_the_legend():
    figure = draw_comparison(SPREAD)
    named = {t.get_text() for t in figure.axes[0].texts}
    assert {"a", "b", "c †"} <= named
    assert not {"a", "b", "c †"} & {t.get_text() for t in figure.legends[0].get_texts()}
    crowded = draw_comparison(EIGHT)
    legend = {t.get_text().replace("\n", "") for t in crowded.legends[0].get_texts()}
    assert {*METHODS[:-1], "noise_then_distil:alpha=0.9 †"} <= legend
    assert "†" in [t.get_text() for t in crowded.axes[0].texts]
    drawn = points(crowded.axes[0])
    assert drawn[0.87] == (pytest.approx(EIGHT[5].headline.mean), MARKERS[5])
    circle = next(line for line in figure.axes[0].lines if line.get_markerfacecolor() == "white")
    assert (circle.get_xdata()[0], circle.get_ydata()[0]) == (1, 0.893)
    assert "leakage of the source task over retrained" in figure.axes[0].get_xlabel()


def test_methods_of_which_one_has_no_retrained_model_are_drawn_over_the_best_floor_of_each():
    alone = replace(SPREAD[0], piggyback=tuple(r for r in SPREAD[0].piggyback if r.model != "retrained"))
    assert (alone.floor, SPREAD[1].floor) == ("scratch", "retrained")
    figure = draw_comparison([alone, *SPREAD[1:]])
    assert "over the best floor" in figure.axes[0].get_xlabel()
    assert sorted(place for place, _ in points(figure.axes[0]).values() if place != 1) == pytest.approx(
        sorted(found.headline.mean for found in (alone, *SPREAD[1:]))
    )


def test_a_method_without_a_measured_target_has_no_height():
    main, below = draw_comparison([*SPREAD, UNMEASURED]).axes
    assert set(points(main)) == {0.89, 0.85, 0.7} and set(points(below)) == {0.0}
    assert below.get_ylabel() == "target accuracy\nnot measured"
    (alone,) = draw_comparison([UNMEASURED]).axes
    assert points(alone)[0.0][0] == pytest.approx(UNMEASURED.headline.mean) and len(alone.get_yticks()) == 0


def test_models_differ_in_grey_also_by_marker_and_line():
    for own in ({marker for _, marker, _ in STYLES.values()}, {line for *_, line in STYLES.values()}):
        assert len(own) == len(STYLES) == 7
    assert len(set(MARKERS)) == len(MARKERS) >= 8 and len(set(COLOURS)) == 7
    # Luminance of every colour stays well below white, so that it can be seen on paper.
    assert all(sum(w * c for w, c in zip((0.21, 0.72, 0.07), to_rgb(colour), strict=True)) < 0.7 for colour in COLOURS)


def test_dollars_in_names_are_no_mathematics():
    figure = Figure()
    canvas = FigureCanvasAgg(figure)
    text = figure.text(0, 0, wrapped("notes, class=bill_$5,bill_$10", 60))
    figure.savefig(io.BytesIO(), format="svg")
    words = figure.text(0, 0, "notes, class=bill_$5,bill_$10", parse_math=False)
    extents = [shown.get_window_extent(canvas.get_renderer()).bounds for shown in (text, words)]
    assert extents[0] == extents[1]


def test_long_names_are_wrapped_at_their_joints():
    lines = wrapped(f"source subset: {LONG_NAMES['source_subset']}", 46).split("\n")
    assert lines == ["source subset: cifar10:train[:50%][airplane,", "automobile,bird,cat,deer,dog]"]
    cut = wrapped("x" * 200, 30, lines=2)
    assert [len(line) for line in cut.split("\n")] == [30, 30] and cut.endswith("…")


def test_nothing_to_draw_is_said(tmp_path):
    with pytest.raises(DataError):
        plot_comparison([], tmp_path / "x")
    nothing = report(piggyback=tuple(records({("scratch", 5): [0.5]})))
    for plot in (plot_piggyback, plot_attacks):
        with pytest.raises(DataError):
            plot(nothing, tmp_path / "x")


def test_the_users_matplotlibrc_changes_nothing(tmp_path):
    """text.usetex without LaTeX ended the run after all attacks, again at each start."""
    rows = "text.usetex: True\nfont.size: 30\naxes.facecolor: red\nsavefig.facecolor: red\n"
    (tmp_path / "matplotlibrc").write_text(rows)
    plots = {}
    for name in ("own", "plain"):
        with rc_context(fname=str(tmp_path / "matplotlibrc") if name == "own" else None):
            plots[name] = [path.read_bytes() for path in plot_piggyback(report(), tmp_path / name)]
    assert plots["own"] == plots["plain"]
