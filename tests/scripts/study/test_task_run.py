"""A whole study of multi-task unlearning on a few images in this process: tuning, references, tables and the goal."""

import json
from dataclasses import replace

import pytest
from study_toys import attacked

from hf_dtl.errors import ConfigError, OutputError
from study.settings.tasks import ABLATION, METHODS, OURS, SETTINGS
from study.tables import Average
from study.tables.tasks import Scope, StrategyRow, markdown, relearned, row_of, table
from study.tasks import TaskStudyOptions, study_tasks, task_study

pytestmark = pytest.mark.usefixtures("short_attacks")

TINY = {
    "images": 120, "train_epochs": 2.0, "max_eval_images": 40, "steps": 2, "forget_batch_size": 8,
    "budgets": "4", "attacks": "linear_probe", "seeds": "0",
}  # fmt: skip
GIVEN = f"{OURS}:subspace_images=16:learning_rate=0.003"


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TINY.items():
            patch.setitem(SETTINGS["fashion_groups"].options, name, value)
        yield


def options(folder, **changes):
    chosen = {
        "setting": "fashion_groups", "output_dir": str(folder), "seeds": "0", "forget": "random=20",
        "methods": f"{GIVEN},fine_tune", "workers": 1, "use_cpu": True,
    }  # fmt: skip
    return TaskStudyOptions(**chosen | changes)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    lines = []
    return folder, study_tasks(options(folder), lines.append), lines


def test_from_data_to_tables(done):
    folder, found, lines = done
    full, partial = found
    assert (full.name, partial.name) == ("full", "partial")
    assert full.forgotten == full.tasks and partial.forgotten == ("item", "season")
    assert full.images == {"forget": 20, "retain": 100}
    for scope in found:
        ours, tuned = scope.rows
        assert ours.name == GIVEN and ours.tried.keys() == {0.003} and tuned.tried.keys() == {3e-4, 1e-3, 3e-3}
        assert tuned.name == f"fine_tune:learning_rate={min(tuned.tried, key=tuned.tried.get):g}"
        assert ours.uis_by_task.keys() == set(scope.tasks) and 0 <= ours.uis.mean < 1
        assert ours.leakage.keys() == set(scope.forgotten) and ours.cost.mean > 0
        original, retrained = scope.references
        assert original.scores["kind"]["retain"].mean > 0.5 and retrained.cpu.mean > 0 and original.cpu.mean is None
    # the scopes share the model: its untouched tasks are not in the way of forgetting
    assert full.references[0].scores == partial.references[0].scores
    assert len([line for line in lines if line.startswith("[")]) == 2 + 2 * (4 + 1) + 2 * 2
    for name in ("table.md", "results.json", "impact.png", "impact.svg"):
        assert (folder / name).stat().st_size > 1000
    values = json.loads((folder / "results.json").read_text())
    assert str(folder) not in json.dumps(values) and "--forget random=20" in values["command"]
    assert markdown(values, found) == (folder / "table.md").read_text()
    assert "| (retrained) |" in table(full).markdown() and "test, untouched" in table(partial).columns


def test_one_model_a_seed_and_nothing_is_done_twice(done):
    folder, found, _ = done
    for seed in ("0", "1000"):
        assert [path.name for path in (folder / "seeds" / seed / "model" / "stages").glob("[a-z]*")] == ["train"]
    assert not (folder / "seeds" / "1000" / "full" / "attacks").exists()  # tuning attacks nothing
    again = []
    assert study_tasks(options(folder), again.append) == found
    assert [line for line in again if line.startswith("[")] == []


def test_tuning_looks_at_validation_images_alone(done):
    folder, *_ = done
    study = task_study(options(folder))
    (trial,) = study.tuning(study.methods[0], "full").values()
    job = trial.load()
    looked = trial.result()["scores"]["item"]["test"] * len(job.images["validation"])
    assert looked == pytest.approx(round(looked)) and not trial.options.membership


def row(name, uis):
    values = Average.of([uis, uis])
    nothing = Average.of([])
    return StrategyRow(
        name=name, uis=values, uis_by_task={}, scores={}, mia=nothing, relearned=nothing, leakage={}, cpu=nothing,
        cost=nothing, tried={}, diverged=0,
    )  # fmt: skip


def scope(*rows):
    return Scope(
        name="full",
        tasks=("a",),
        forgotten=("a",),
        images={"forget": 1, "retain": 1},
        references=(),
        rows=rows,
        failed={},
    )


def test_our_method_is_compared_with_the_strongest_baseline_alone():
    ours, ablation = row(f"{OURS}:learning_rate=0.001", 0.02), row(f"{ABLATION[0]}:learning_rate=0.001", 0.001)
    found = scope(ours, ablation, row("salun:learning_rate=0.001", 0.05), row("scrub:learning_rate=0.001", 0.04))
    assert found.strongest.name.startswith("scrub") and found.below == pytest.approx(0.5)
    assert scope(ours).below is None and scope(found.rows[2]).below is None
    diverged = replace(found.rows[3], diverged=1)
    assert scope(ours, found.rows[2], diverged).below == pytest.approx(0.6)


def test_a_diverged_seed_leaves_the_others():
    good = {
        "scores": {"a": {"forget": 0.5, "retain": 0.9, "test": 0.8}}, "uis": {"mean": 0.1, "by_task": {"a": 0.1}},
        "membership": {"a": 0.6}, "attacks": {}, "cost": {"cpu": 2.0},
    }  # fmt: skip
    before = {"cost": {"cpu": 8.0}}
    found = row_of("salun", [good, {"diverged": "nan"}], [before, before], {})
    assert found.diverged == 1 and found.uis.values == (0.1,) and found.cost.mean == 0.25
    assert found.score(["a"], "test").mean == 0.8
    two = {"attacks": {"a": [attacked("full", 0.5, 0.8), attacked("linear_probe", 0.7, 0.6)]}}
    assert relearned(two) == {"a": 0.5}, "validation images say which attack is the strongest"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"setting": "cats"}, "there are: glyphs"),
        ({"scopes": "full,full"}, "must be full or partial"),
        ({"scopes": "some"}, "must be full or partial"),
        ({"methods": "retrain"}, "is a reference"),
        ({"methods": "salun,salun"}, "different strategies"),
        ({"methods": "negation"}, "is unknown; use one of"),
        ({"methods": "salun:salt=1"}, "no option 'salt'"),
        ({"seeds": "1000"}, "none of them"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        study_tasks(options(tmp_path / "out", **change))
    assert not (tmp_path / "out").exists()


def test_another_study_in_the_folder_is_refused(done):
    folder, *_ = done
    with pytest.raises(OutputError, match="holds another study"):
        study_tasks(options(folder, forget="random=10"))


def test_every_method_of_the_study_can_be_built():
    assert len(set(METHODS)) == len(METHODS)
    study = task_study(TaskStudyOptions())
    assert len(study.methods) == len(METHODS)
