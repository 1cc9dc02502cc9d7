"""A whole study of instance-wise unlearning on a few images in this process: what is dealt, tuned, kept and shared."""

import json
from dataclasses import replace

import pytest
from study_toys import attacked

from hf_dtl.errors import ConfigError, OutputError
from hf_dtl.pipeline.job import Job
from study.instance_trials import _job_of_requests, _request_images
from study.instances import InstanceStudyOptions, choose, instance_study, study_instances
from study.settings.instances import INSTANCE_OPTIONS
from study.settings.unlearning import SETTINGS
from study.tables.instances import markdown, row_of, table

pytestmark = pytest.mark.usefixtures("short_attacks")

TINY = {
    "retain": "mnist[0,1,2]", "retain_images_per_class": 24, "max_eval_images": 30, "train_epochs": 5.0,
    "budgets": "2", "seeds": "0", "batch_size": 12,
}  # fmt: skip
GIVEN = "both:delta=0.05:learning_rate=0.01"


@pytest.fixture(scope="module")
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in TINY.items():
            patch.setitem(SETTINGS["fashion_vit"].options, name, value)
        patch.setitem(INSTANCE_OPTIONS, "steps", 3)
        yield


def options(folder, **changes):
    chosen = {
        "output_dir": str(folder), "seeds": "0", "sizes": "4,2", "drawn": 8, "variants": f"none,{GIVEN}",
        "continual": "2x2", "continual_variants": GIVEN, "cumulative_variants": GIVEN,
        "examples": 2, "attack_steps": 2, "attacks": "linear_probe",
        "workers": 1, "use_cpu": True,
    }  # fmt: skip
    return InstanceStudyOptions(**chosen | changes)


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    lines = []
    return folder, study_instances(options(folder), lines.append), lines


def test_from_data_to_tables(done):
    folder, found, lines = done
    assert [one.sizes for one in found] == [(2,), (4,), (2, 2)]
    single, sequence = found[1], found[2]
    none, both = single.rows
    tuned = found[0].rows[0]
    assert tuned.tried.keys() == {0.001, 0.003, 0.01} and found[0].rows[1].tried.keys() == {0.01} and not none.tried
    assert none.name == tuned.name == f"none:learning_rate={choose(tuned.tried):g}" and both.name == GIVEN
    assert none.adversaries.mean is None and both.adversaries.mean > 0 and both.cpu.mean > 0
    assert 0 < both.steps.mean <= 3 and both.kept.mean is None and both.mia.mean is None
    row, together = sequence.rows
    assert together.name == f"{row.name}, cumulative" and "Cumulative: each request" in table(sequence).notes[-1]
    assert together.steps.mean > 0 and together.kept.mean is not None
    assert 0 <= row.kept.mean <= 1 and row.steps.mean <= 6 and row.adversaries.mean is None and not row.tried
    assert single.undisposed.accuracy["retain"].mean > 0.6 and 0 <= row.relearned.mean <= 1
    assert len([line for line in lines if line.startswith("[")]) == 2 + (3 + 3) + (3 + 1) + (4 + 2)
    for name in ("table.md", "results.json", "instances.png", "instances.svg"):
        assert (folder / name).stat().st_size > 1000
    values = json.loads((folder / "results.json").read_text())
    assert str(folder) not in json.dumps(values) and "--sizes 4,2" in values["command"]
    assert values["adversaries"] == {"examples": 2, "epsilon": 4.0, "step_size": 0.25, "attack_steps": 2}
    assert markdown(values, found) == (folder / "table.md").read_text()
    assert "| (undisposed) |" in table(single).markdown() and "earlier still forgotten" in table(sequence).columns


def test_a_seed_has_one_model_and_one_set_of_examples_for_each_size(done):
    folder, *_ = done
    for seed, sizes in (("0", 2), ("1000", 1)):  # learning rates are chosen at every other size
        assert [path.name for path in (folder / "seeds" / seed / "stages").glob("[a-z]*")] == ["train"]
        assert len(list((folder / "seeds" / seed / "adversaries").iterdir())) == sizes


def test_requests_are_dealt_from_one_order_and_nothing_of_them_is_retained(done):
    folder, *_ = done
    job = instance_study(options(folder)).training_trials()[1].load()
    first, second = _request_images(job, (2, 2))
    (larger,) = _request_images(job, (4,))
    assert (larger.pixel_values[:2] == first.pixel_values).all() and (larger.labels[2:] == second.labels).all()
    about = _job_of_requests(job, (2, 2))
    assert (about.images["forget"].pixel_values == larger.pixel_values).all() and len(job.images["forget"]) == 8
    attacked = about.scenario.attacked["source"]
    assert (attacked.test.pixel_values == larger.pixel_values).all() and len(attacked.train) == 72 - 8
    same = (attacked.train.pixel_values[:, None] == larger.pixel_values[None]).flatten(2).all(-1)
    assert not same.any()


def test_tuning_sees_no_test_images_and_no_attack(done):
    folder, *_ = done
    study = instance_study(options(folder))
    for trial in study.tuning(study.methods[0], 2).values():
        assert set(trial.result()) == {"accuracy", "steps", "after", "cpu"}
        assert set(trial.result()["accuracy"]) == {"forget", "validation"}
    assert not list((folder / "seeds" / "1000").rglob("attacks*"))
    assert not list((folder / "seeds" / "1000").rglob("undisposed*"))


def test_a_finished_study_is_repeated_from_its_files_alone(done, monkeypatch):
    folder, found, _ = done

    def forbidden(*args):
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr(Job, "__init__", forbidden)
    lines = []
    assert study_instances(options(folder), lines.append) == found
    assert not [line for line in lines if line.startswith("[")]


def test_what_is_missing_is_done_and_nothing_else(done):
    folder, found, _ = done
    study = instance_study(options(folder))
    trial = study.seed_trials((2,), study.methods[1], 0.01, "single")[0]
    before = trial.result()
    trial.path.unlink()
    lines = []
    again = study_instances(options(folder), lines.append)
    assert len([line for line in lines if line.startswith("[")]) == 1
    after = trial.result()
    assert {k: v for k, v in after.items() if k != "cpu"} == {k: v for k, v in before.items() if k != "cpu"}
    assert again[1] == found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"setting": "none"}, "Unknown --setting"),
        ({"setting": "cifar_vit"}, "needs --data_dir"),
        ({"seeds": "1,1"}, "must be different numbers"),
        ({"seeds": "1000"}, "and --tuning_seed 1000 none of them"),
        ({"workers": 0}, "--workers 0"),
        ({"attacks": "magic"}, "Unknown attack 'magic'"),
        ({"sizes": "2,2"}, "--sizes '2,2' must be different"),
        ({"sizes": "0"}, "of 1 to --drawn 8"),
        ({"sizes": "2,16"}, "of 1 to --drawn 8"),
        ({"sizes": "few"}, "must be whole numbers"),
        ({"tuned_sizes": "2,8"}, "--tuned_sizes '2,8' must be some of --sizes 4,2"),
        ({"variants": ""}, "must name different variants"),
        ({"variants": "none,none"}, "must name different variants"),
        ({"variants": "salun"}, "Unknown variant 'salun'"),
        ({"variants": "both:magic=1"}, "has no option 'magic'"),
        ({"variants": "importance:project=true"}, "set adversarial=True"),
        ({"examples": 0}, "examples=0 must be >= 1"),
        ({"continual_variants": "both"}, "both must be among --variants"),
        ({"cumulative_variants": "none"}, "none must be among --continual_variants both"),
        ({"continual": "16"}, "must be COUNTxSIZE"),
        ({"continual": "1x2"}, "two requests or more"),
        ({"continual": "2x3"}, "3 must be one of --sizes 4,2"),
        ({"continual": "3x4"}, "needs more images than --drawn 8"),
    ],
)
def test_bad_options(changes, message, tmp_path, tiny):
    with pytest.raises(ConfigError, match=message):
        study_instances(options(tmp_path / "out", **changes), lambda line: None)
    assert not (tmp_path / "out").exists()


def test_another_study_is_not_overwritten(done):
    folder, *_ = done
    with pytest.raises(OutputError, match="random=8' there, 'random=9' now"):
        instance_study(options(folder, drawn=9)).start()


def test_a_request_takes_the_rates_of_the_nearest_tuned_size(tiny, tmp_path):
    study = instance_study(options(tmp_path, sizes="16,64,128,256", drawn=256, continual="2x16"))
    assert study.tuned == (16, 128) and [study.nearest(size) for size in study.sizes] == [16, 128, 128, 128]
    study = instance_study(options(tmp_path, sizes="16,64,256", tuned_sizes="256,16", drawn=256, continual="2x16"))
    assert study.tuned == (16, 256) and study.nearest(64) == 256, "of two the larger"


def test_a_resnet_has_more_rates_of_the_papers_method(tiny, tmp_path):
    o = options(tmp_path, variants="none,collages", continual_variants="", cumulative_variants="")
    for setting, count in (("fashion_vit", 3), ("fashion_resnet", 5)):
        none, ours = instance_study(replace(o, setting=setting)).methods
        assert len(none.strengths) == count and len(ours.strengths) == 3


def test_strengths_that_forget_everything_come_first():
    kept = {"forget": 0.0, "validation": 0.5}
    better = {"forget": 0.0, "validation": 0.6}
    remembered = {"forget": 0.1, "validation": 0.9}
    assert choose({1.0: remembered, 2.0: kept, 3.0: better, 4.0: None}) == 3.0
    assert choose({1.0: {"forget": 0.5, "validation": 0.9}, 2.0: remembered}) == 2.0
    assert choose({1.0: None}) is None


def test_what_a_row_sums_up():
    measured = {
        "accuracy": {"forget": 0.25, "retain": 0.9, "test": 0.7},
        "mia": 0.5,
        "attacks": [attacked("full", 0.2, 0.6), attacked("linear_probe", 0.3, 0.5)],
    }
    own = measured | {"steps": [3, 4], "after": [[0.5], [0.25, 0.0]], "cpu": 2.0}
    before = measured | {"accuracy": measured["accuracy"] | {"test": 0.8}}
    row = row_of("both", [own, {"diverged": "lost"}], [before, before], [1.0, 9.0], {})
    assert row.lost.mean == pytest.approx(10) and row.steps.mean == 7 and row.diverged == 1
    assert row.served.mean == pytest.approx((0.5 + 1.0) / 2) and row.kept.mean == 0.75
    assert row.relearned.mean == 0.2, "validation images say which attack is the strongest"
    assert row.adversaries.values == (1.0,)


def test_a_variant_with_a_search_of_its_own_has_adversaries_of_its_own(tiny, tmp_path):
    study = instance_study(
        options(
            tmp_path,
            variants="importance,both,both:delta=0.1,both:epsilon=1",
            continual_variants="",
            cumulative_variants="",
        )
    )
    without, both, delta, nearer = (study.adversaries(0, 2, variant) for variant in study.methods)
    assert without is None and both == delta and nearer.path != both.path
    assert study.requests == [(2,), (4,)] and replace(nearer, method="adversarial") == both
