"""`hf-dtl audit --example`: two small models that come with the package, attacked for real."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from hf_dtl.audit import LeakageReport
from hf_dtl.cli.main import main
from hf_dtl.data.sources import EXAMPLE_FOLDER
from hf_dtl.pipeline import example

README = Path(__file__).resolve().parents[2] / "README.md"


@pytest.fixture
def few_attacks(monkeypatch):
    """The same with one attack, one budget and one seed."""
    few = {"suite": "custom", "attacks": "ridge", "budgets": "5", "seeds": "0"}
    monkeypatch.setattr(example, "run", lambda options, store, run=example.run: run(replace(options, **few), store))


def test_it_ends_with_a_verdict_and_a_picture(few_attacks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["audit", "--example"])
    out = capsys.readouterr().out
    assert "Verdict on representation_erasure:" in out and "hf-dtl forget" in out.partition("Next:")[2]
    assert (tmp_path / "hf_dtl_example" / "comparison.png").stat().st_size > 10_000
    reports = [LeakageReport.load(path) for path in (tmp_path / "hf_dtl_example").glob("*/leakage_report.json")]
    assert {report.method for report in reports} == {"representation_erasure", "gradient_collision"}
    references = [[r.accuracy for r in report.piggyback if r.model == "undisposed"] for report in reports]
    assert references[0] == references[1]
    stored = (tmp_path / "hf_dtl_example" / "attacks.jsonl").read_text().splitlines()
    assert len(stored) == len(("undisposed", "retrained", "scratch", "no_model", "one", "other"))


@pytest.mark.slow
def test_the_readme_shows_what_it_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = re.search(r"```text\n(method .*?)\n\n", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    rows = {
        line.split()[0]: [float(n) for n in re.findall(r"-?\d\.\d{3}", line)] for line in shown[1].splitlines()[1:]
    }
    reports = {report.method: report for report in example.audit_example("out")}
    first = reports["representation_erasure"]
    for model in ("undisposed", "retrained", "scratch", "no_model"):
        points = first.axes["source_subset"].points(model).values()
        assert rows[f"({model})"][-2:] == pytest.approx([point.mean for point in points], abs=0.02)
    for method, report in reports.items():
        points = report.axes["source_subset"].points("scrubbed").values()
        leakage = report.headline
        wanted = [
            report.target_accuracy["scrubbed"],
            *(point.mean for point in points),
            leakage.mean,
            leakage.low,
            leakage.high,
        ]
        assert rows[method] == pytest.approx(wanted, abs=0.02)
        folder = example.PUBLISHED[method]
        card = LeakageReport.load(folder / "leakage_report.json")
        assert card.suite == report.suite and card.headline.word == report.headline.word
        of_card = {(r.model, r.attack, r.budget, r.seed): r.accuracy for r in card.piggyback}
        again = {(r.model, r.attack, r.budget, r.seed): r.accuracy for r in report.piggyback}
        assert again == pytest.approx(of_card, abs=0.02), "an attack on the same draws"
    sentence = re.search(r"leakage over the best floor -?\d\.\d{3}", " ".join(README.read_text().split()))[0]
    assert sentence.endswith(f"{rows['representation_erasure'][3]:.3f}")


def test_an_option_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        main(["audit", "--example", "--output-dirr", "x"])
    assert "Did you mean --output_dir?" in capsys.readouterr().err


def test_it_is_small():
    assert sum(path.stat().st_size for path in EXAMPLE_FOLDER.rglob("*") if path.is_file()) <= 1_500_000
