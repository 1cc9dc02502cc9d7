"""A whole comparison of unlearning methods on a few images in this process: what is kept, tuned on, and repeated."""

import json
from dataclasses import replace

import pytest

from hf_dtl.errors import ConfigError, DivergedError, OutputError
from hf_dtl.pipeline.job import Job
from hf_dtl.pipeline.part_job import PartJob
from study import unlearning
from study.engine import records_of
from study.settings.unlearning import SETTINGS
from study.tables import relearned
from study.tables.unlearning import markdown, table
from study.unlearning import ComparisonOptions, compare, unlearning_study

pytestmark = pytest.mark.usefixtures("short_attacks")

TINY = {
    "retain": "mnist[0,1,2]", "retain_images_per_class": 48, "max_eval_images": 60, "train_epochs": 16.0, "steps": 2,
    "budgets": "2", "augmentation": "none",
}  # fmt: skip
METHODS = "negative_ce,projected_gradient:learning_rate=0.1"


@pytest.fixture(scope="module")
def tiny():
    setting = SETTINGS["fashion_vit"]
    before = dict(setting.options)
    setting.options.update(TINY)
    yield
    setting.options.clear()
    setting.options.update(before)


def options(folder, **changes):
    chosen = {
        "output_dir": str(folder), "seeds": "0,1", "requests": "class=1", "methods": METHODS,
        "attacks": "linear_probe", "workers": 1, "use_cpu": True,
    }  # fmt: skip
    return ComparisonOptions(**chosen | changes)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comparison") / "out"
    lines = []
    return folder, compare(options(folder), lines.append), lines


def test_from_data_to_tables(done):
    folder, (found,), lines = done
    negative, projected = found.rows
    assert negative.tried.keys() == {3e-4, 1e-3, 3e-3} and projected.tried.keys() == {0.1}
    best = min(negative.tried, key=negative.tried.get)
    assert negative.name == f"negative_ce:learning_rate={best:g}"
    undisposed, retrained = found.references
    assert retrained.accuracy["forget"].values == (0.0, 0.0) and retrained.gap.mean == 0
    assert undisposed.accuracy["retain"].mean > 0.6 and undisposed.gap.mean > 0.1 and negative.cost.mean > 0
    assert len(negative.gap.values) == 2 and found.images == {"forget": 48, "retain": 96}
    assert len([line for line in lines if line.startswith("[")]) == 3 + (4 + 2) + 4
    for name in ("table.md", "results.json", "gap.png", "gap.svg"):
        assert (folder / name).stat().st_size > 1000
    values = json.loads((folder / "results.json").read_text())
    assert str(folder) not in json.dumps(values) and "--requests class=1" in values["command"]
    assert markdown(values, [found]) == (folder / "table.md").read_text()
    assert "| (undisposed) |" in table(found).markdown()


def test_tuning_sees_no_test_images_and_no_attack(done):
    folder, *_ = done
    study = unlearning_study(options(folder))
    for trial in (study.before_tuning("class=1"), *study.tuning(study.methods[0], "class=1").values()):
        assert (
            set(trial.result()["accuracy"]) == {"forget", "retain", "validation"} and not trial.result()["membership"]
        )
    assert not list((folder / "seeds" / "1000").rglob("attacks*"))


def test_a_finished_comparison_is_repeated_from_its_files_alone(done, monkeypatch):
    folder, found, _ = done

    def forbidden(*args):
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(Job, "__init__", forbidden)
    lines = []
    assert compare(options(folder), lines.append) == found
    assert not [line for line in lines if line.startswith("[")]


def test_a_method_that_diverges_is_a_result(done, monkeypatch):
    folder, *_ = done

    def diverge(*args):
        raise DivergedError("the loss is not finite")

    monkeypatch.setattr(PartJob, "unlearn", diverge)
    methods = f"{METHODS},uniform_fooling"
    (found,) = compare(options(folder, methods=methods), lambda line: None)
    assert found.failed == {"uniform_fooling": "the training diverged at every strength"} and len(found.rows) == 2
    assert "`uniform_fooling` has no row" in (folder / "table.md").read_text()


def test_validation_images_say_which_attack_with_a_new_head_is_the_strongest(done):
    folder, (found,), _ = done
    (trial, _) = unlearning_study(options(folder)).on_seeds("references", "class=1")
    records = [record for record in records_of(trial.result()) if record.model == "undisposed"]
    assert {record.attack for record in records} == {"linear_probe"} and found.references[0].new_head.values[0] == (
        relearned(records)
    )
    better = [replace(r, attack="full", accuracy=0.0, validation_accuracy=1.0) for r in records]
    assert relearned([*records, *better]) == 0.0 and relearned([]) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": "none"}, "Unknown --setting"),
        ({"setting": "cifar_vit"}, "needs --data_dir"),
        ({"seeds": "1,1"}, "must be different numbers"),
        ({"seeds": "1000"}, "and --tuning_seed 1000 none of them"),
        ({"requests": ";"}, "names nothing to forget"),
        ({"methods": "salon"}, "Unknown method 'salon'"),
        ({"methods": ""}, "must name different methods"),
        ({"workers": 0}, "--workers 0"),
        ({"attacks": "magic"}, "Unknown attack 'magic'"),
    ],
)
def test_bad_options(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        compare(options(tmp_path / "out", **changes), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_another_comparison_is_not_overwritten(done, monkeypatch):
    folder, *_ = done
    monkeypatch.setitem(SETTINGS["fashion_vit"].options, "steps", 3)
    with pytest.raises(OutputError, match="steps: 2 there, 3 now"):
        unlearning.unlearning_study(options(folder)).start()
