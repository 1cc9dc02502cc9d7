"""A whole study on a few images in this process: what is kept, what is measured where, and what is repeated."""

import json

import pytest
from study_toys import tiny

from hf_dtl.errors import DivergedError
from hf_dtl.pipeline.whole_task_job import WholeTaskJob
from study import workers
from study.main_job import main_study, reproduce

pytestmark = pytest.mark.usefixtures("short_attacks")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    lines = []
    return folder, reproduce(tiny(folder), lines.append), lines


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix in (".json", ".jsonl")}


def test_from_data_to_table(done):
    folder, summary, lines = done
    (row,) = summary.rows
    assert row.learned.keys() == {1, 2} and 0 <= row.target.mean <= 1 and row.cost.mean > 0
    assert len(row.chosen.tried) == 3 and row.chosen.strength in row.chosen.tried
    assert [line for line in lines if line.startswith("[2/4] tuning, seed 1000: negative_ce:forget_weight=3 (")]
    assert len([line for line in lines if line.startswith("[")]) == 2 + 4 + 1
    for name in ("table.md", "results.json", "tradeoff.png", "tradeoff.svg"):
        assert (folder / name).stat().st_size > 1000
    assert not (folder / "seeds" / "1000" / "attacks").exists(), "no leakage is looked at in tuning"


def test_tuning_sees_no_test_images(done):
    folder, *_ = done
    study = main_study(tiny(folder))
    for trial in (study.before_tuning(), *study.tuning(study.methods[0]).values()):
        result = trial.result()
        assert "validation" in result and not {"target", "source"} & result.keys()


def test_finished_cells_stay_and_other_attacks_repeat_attacks_alone(done):
    folder, first, _ = done
    before = files(folder / "seeds")
    second = reproduce(tiny(folder), lambda line: None)
    assert second == first and files(folder / "seeds") == before
    lines = []
    third = reproduce(tiny(folder, budgets="1"), lines.append)
    assert third.rows[0].learned[1] == first.rows[0].learned[1] and third.rows[0].cost == first.rows[0].cost
    kept = files(folder / "seeds")
    assert {path: kept[path] for path in before if path.name != "run.json"} == {
        path: time for path, time in before.items() if path.name != "run.json"
    }
    assert len(kept) == len(before) + 2, "the store already had these attacks"


def test_a_disposal_that_diverges_is_a_result(done, tmp_path, monkeypatch):
    folder, *_ = done

    def diverge(*args):
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(WholeTaskJob, "dispose", diverge)
    summary = reproduce(tiny(folder, methods="uniform_fooling:forget_weight=7"), lambda line: None)
    assert summary.rows[0].diverged == 1 and summary.rows[0].goal is None
    assert (
        "Diverged, so without values: uniform_fooling:forget_weight=7 on 1 seed(s)"
        in (folder / "table.md").read_text()
    )


def test_a_changed_option_is_another_trial(tmp_path):
    def names(method="negative_ce", **options):
        study = main_study(tiny(tmp_path, methods=method, **options))
        trial = study.on_seeds("method", "", study.methods[0].at(1.0))[0]
        return {"disposal": trial.store, "attacks": trial.path.name}

    same = names()
    assert names() == same and names(seeds="0,1", workers=2, margin=0.2) == same
    other = names(budgets="1,2,3")
    assert other["disposal"] == same["disposal"] and other["attacks"] != same["attacks"]
    for changed in (names("negative_ce:cap=5"), names(override=json.dumps({"steps": 4}))):
        assert changed["disposal"] != same["disposal"] and changed["attacks"] != same["attacks"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_that_python_lost_is_raised_later():
    import os
    import signal

    class Finaliser:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            sum(range(1000))  # the exception is raised, and swallowed, here

    with pytest.raises(KeyboardInterrupt), workers._interruptible() as check:
        Finaliser()
        check()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
