"""`hf-dtl audit --example`: two small models that come with the package, attacked for real."""

from dataclasses import replace

import pytest

from hf_dtl.audit import LeakageReport
from hf_dtl.cli.main import main
from hf_dtl.data.sources import EXAMPLE_FOLDER
from hf_dtl.pipeline import example


@pytest.fixture
def few_attacks(monkeypatch):
    """The same with one budget and one seed."""
    monkeypatch.setattr(
        example, "run", lambda options, store, run=example.run: run(replace(options, budgets="5", seeds="0"), store)
    )


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
    attacks = 2
    assert len(stored) == attacks * len(("undisposed", "retrained", "scratch", "one", "other"))


def test_an_option_that_there_is_not(capsys):
    with pytest.raises(SystemExit):
        main(["audit", "--example", "--output-dirr", "x"])
    assert "Did you mean --output_dir?" in capsys.readouterr().err


def test_it_is_small():
    assert sum(path.stat().st_size for path in EXAMPLE_FOLDER.rglob("*") if path.is_file()) <= 1_500_000
