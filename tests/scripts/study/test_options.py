"""Options of the study: what they come to, and what is refused before anything is written."""

import json

import pytest
from study_toys import OVERRIDE, tiny
from transformers import AutoImageProcessor, AutoModelForImageClassification

from hf_dtl.errors import ConfigError, OutputError
from hf_dtl.methods.registry import method_names
from hf_dtl.pipeline.forget_options import ForgetOptions
from study.main_job import StudyOptions, main_study
from study.settings.main_job import FORGET_WEIGHT, SETTINGS

WRONG = {
    "setting": ({"setting": "mnist"}, "there are: mnist_vit"),
    "data": ({"setting": "cifar_vit"}, "needs --data_dir"),
    "model": ({"setting": "cifar_dinov2", "data_dir": "x"}, "needs --model"),
    "seeds": ({"seeds": "0,0"}, "different numbers"),
    "tuning seed": ({"seeds": "0,1000"}, "--tuning_seed 1000 none of them"),
    "margin": ({"margin": 2.0}, "--margin 2.0 must be in 0..1"),
    "workers": ({"workers": 0}, "--workers 0"),
    "method": ({"methods": "negative_ce,none"}, "Unknown method 'none'"),
    "twice": ({"methods": "negative_ce,negative_ce"}, "different methods"),
    "option": ({"methods": "negative_ce:lid=3"}, "no option 'lid'"),
    "range": ({"methods": "negative_ce:cap=-1"}, "cap=-1.0 must be > 0"),
    "strength": ({"methods": "negative_ce:forget_weight=-1"}, "forget_weight=-1.0 must be >= 0"),
    "attack": ({"attacks": "half"}, "Unknown attack 'half'"),
    "override": ({"override": "{"}, "is not JSON"),
    "overridden": ({"override": '{"dispose_step": 3}'}, "unknown option 'dispose_step'"),
    "kind": ({"override": '{"dispose_steps": "3"}'}, "dispose_steps='3' must be of the type int"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_refused(case, tmp_path):
    options, message = WRONG[case]
    with pytest.raises(ConfigError) as error:
        main_study(tiny(tmp_path / "out", **options))
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_gives_jobs(name, tmp_path):
    found = main_study(StudyOptions(setting=name, output_dir=str(tmp_path), data_dir="photos", model="org/model"))
    jobs = [found.job(seed) for seed in (*found.seeds, found.options.tuning_seed)]
    assert len({job.output_dir for job in jobs}) == 4 and [job.seed for job in jobs] == [1, 2, 3, 1000]
    assert not {"{data}", "{model}"} & set(map(str, jobs[0].recorded().values()))
    assert {"gradient_collision", "representation_erasure"} <= {m.text.split(":")[0] for m in found.methods}
    assert {text.split(":")[0] for text in found.unknown}.isdisjoint(method_names())
    tuned = [method for method in found.methods if not method.text.startswith("fresh_distillation")]
    assert all(len(method.strengths) == 3 for method in tuned), "the same tuning budget"
    assert all(list(method.strengths) == sorted(set(method.strengths)) for method in found.methods)
    if SETTINGS[name].needs:
        assert "photos[0-5]" == jobs[0].forget or SETTINGS[name].tiny_resnet


def test_a_given_strength_is_not_tuned(tmp_path):
    found = main_study(tiny(tmp_path, methods="negative_ce:forget_weight=2:cap=5,uniform_fooling"))
    given, tuned = found.methods
    assert (given.text, given.strengths) == ("negative_ce:cap=5", (2.0,))
    assert given.at(2.0) == "negative_ce:cap=5:forget_weight=2"
    assert tuned.strengths == FORGET_WEIGHT.values


def test_options_of_the_command_come_last(tmp_path):
    job = main_study(tiny(tmp_path, budgets="1,3")).job(7)
    assert (job.budgets, job.seed, job.seeds) == ("1,3", 7, SETTINGS["mnist_vit"].options["seeds"])
    assert {name: getattr(job, name) for name in OVERRIDE} == OVERRIDE
    assert job.forget_weight == ForgetOptions().forget_weight


def test_older_names_of_options_are_taken(tmp_path):
    job = main_study(tiny(tmp_path, override='{"dispose_steps": 7, "source_dataset": "mnist[0,1]"}')).job(0)
    assert job.steps == 7 and job.forget == "mnist[0,1]"


def test_a_folder_holds_one_study(tmp_path):
    folder = tmp_path / "out"
    main_study(tiny(folder)).start()
    main_study(tiny(folder, seeds="0,1,2", methods="uniform_fooling", budgets="5", attacks="full", margin=0.1)).start()
    with pytest.raises(OutputError, match="batch_size: None there, 32 now"):
        main_study(tiny(folder, override=json.dumps(OVERRIDE | {"batch_size": 32}))).start()
    other = tmp_path / "other"
    other.mkdir()
    (other / "table.md").write_text("mine")
    with pytest.raises(OutputError, match="not a study's"):
        main_study(tiny(other)).start()


def test_each_seed_has_its_own_small_resnet(tmp_path):
    found = main_study(StudyOptions(setting="mnist_resnet", output_dir=str(tmp_path / "out"), seeds="0,1"))
    found.start()
    paths = [found.job(seed).model for seed in (0, 1, found.options.tuning_seed)]
    models = [AutoModelForImageClassification.from_pretrained(path) for path in paths]
    assert AutoImageProcessor.from_pretrained(paths[0]).size == {"height": 28, "width": 28}
    weights = [next(model.parameters()).sum().item() for model in models]
    assert len(set(weights)) == 3
    found.start()
    again = AutoModelForImageClassification.from_pretrained(paths[0])
    assert next(again.parameters()).sum().item() == weights[0]
