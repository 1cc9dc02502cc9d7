"""Forgetting for some of several tasks: what a command line may say, which images are meant, and what is measured."""

import re

import numpy as np
import pytest
import torch
from architectures import CONFIGS
from transformers import AutoModelForImageClassification, TrainerCallback

from hf_dtl.data import embedded_processor
from hf_dtl.data.glyphs import render_glyphs
from hf_dtl.errors import DTLError
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.outlook import outlook
from hf_dtl.pipeline.some_tasks_job import SomeTasksJob
from hf_dtl.scenarios.some_tasks import SomeTasks
from hf_dtl.scenarios.spec import ScenarioSpec
from hf_dtl.trainers.multitask_training import with_task_heads


@pytest.fixture(scope="module")
def glyphs(tmp_path_factory):
    """120 training glyphs and 40 of each other split, in a folder."""
    folder = tmp_path_factory.mktemp("glyphs") / "letters"
    for split, count in (("train", 120), ("validation", 40), ("test", 40)):
        render_glyphs(split, count).to_parquet(folder / f"{split}.parquet")
    return folder


@pytest.fixture
def options(glyphs, tmp_path):
    """Options of a small job that is never trained, with others on top."""

    def make(**others) -> ForgetOptions:
        chosen = {
            "retain": str(glyphs), "task_columns": "case,weight,rotation", "forget": "random=10%",
            "method": "multitask", "use_cpu": True, "image_size": 14, "forget_batch_size": 8, "budgets": "2",
            "output_dir": str(tmp_path / "out"),
        }  # fmt: skip
        return ForgetOptions(**chosen | others)

    return make


def saved(folder, tasks, image_size=14):
    config = CONFIGS["vit"]()
    config.image_size, config.patch_size = image_size, 7
    with_task_heads(AutoModelForImageClassification.from_config(config), tasks).save(folder)
    embedded_processor(image_size).save_pretrained(folder)
    return str(folder)


TASKS = {"case": ("upper", "lower"), "weight": ("regular", "bold"), "rotation": ()}


def test_what_the_kind_of_request_decides():
    read = ForgetOptions(method="multitask", forget_tasks="a,b", forget="random=5%")
    assert read.kind == "tasks" and read.forget_tasks == "a,b"
    assert (read.retain, read.augmentation, read.attacks, read.budgets) == ("glyphs", "none", "full", "5")
    one = ForgetOptions(forget="random=5%")
    assert (one.kind, one.retain, one.augmentation, one.suite) == ("part", "fashion_mnist", "affine", "quick-1")
    assert read.suite == "custom" and one.attacker().budgets == (5, 20)


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"goal": "relabel"}, "--goal relabel is for methods of one task"),
        ({"retrained": "x"}, "use --reference retrain"),
        ({"retain_label_column": "case"}, "--task_columns"),
        ({"retain_images_per_class": 3}, "use --images"),
        ({"forget": "class=0"}, "--forget class=0 is for one task"),
        ({"method": "multitask,salun"}, "names multitask, for several tasks at once, and salun, for one"),
        ({"method": "salun"}, "is for several tasks at once, --method salun is for one. Add --method multitask"),
        (
            {"method": "salun", "task_columns": None, "forget_tasks": "case"},
            "--forget_tasks case is for several tasks",
        ),
        ({"method": "multitask:strategy=x"}, "strategy='x' is unknown"),
        ({"method": "multitask,multitask:strategy=scrub", "steps": 4}, "nothing would be forgotten"),
        ({"method": "multitask:nothing=1"}, "multitask has no option 'nothing'"),
        ({"reference": "maybe"}, "--reference 'maybe' is unknown"),
        (
            {"forget_tasks": "case,letters"},
            "There is no task 'letters'; the model's tasks are: case, weight, rotation",
        ),
        ({"forget_tasks": " , "}, "There is no pair"),
        ({"forget": "random=100%"}, "nothing that could be retained is left"),
        ({"forget": "random=0"}, "Nothing to forget"),
        ({"forget": "weight=bold"}, "'weight' must be a column that is no task"),
        ({"task_columns": "case,wait"}, "has no label column 'wait'"),
        ({"task_columns": "a=case,a=weight"}, "names a task twice"),
        ({"budgets": "70"}, "Use --budgets up to"),
        ({"train_epochs": 0}, "--train_epochs 0 leaves the new heads of the tasks random"),
        ({"forget_batch_size": 0}, "--forget_batch_size 0 must be a positive multiple"),
    ],
)
def test_what_is_refused_before_any_work(options, tmp_path, others, message):
    with pytest.raises(DTLError, match=re.escape(message)) as refused:
        SomeTasksJob(options(**others))
    assert "\n" not in str(refused.value) or others.get("forget")
    assert not (tmp_path / "out").exists()


def test_rows_of_a_file_and_of_a_column(options, tmp_path):
    (tmp_path / "rows.txt").write_text("7\n3  # a comment\n")
    listed = SomeTasksJob(options(forget=str(tmp_path / "rows.txt"), forget_tasks="case"))
    assert listed.scenario.rows == [3, 7] and listed.scenario.forgotten == ("case",)
    (tmp_path / "rows.txt").write_text("7,upper\n3,lower\n")
    with pytest.raises(DTLError, match="rows.txt names new labels, which multitask does not give"):
        SomeTasksJob(options(forget=str(tmp_path / "rows.txt")))

    whole = render_glyphs("train", 120)
    serif = np.flatnonzero(np.array(whole["family"]) == whole.features["family"].str2int("serif")).tolist()
    job = SomeTasksJob(options(forget="family=serif", output_dir=str(tmp_path / "other")))
    assert job.scenario.rows == serif
    assert list(job.scenario.tasks) == list(job.model.heads) == ["case", "weight", "rotation"]
    assert job.scenario.forgotten == tuple(job.scenario.tasks) and job.images["train"].labels.keys() == TASKS.keys()
    held_out = render_glyphs("test", 40)
    assert len(job.images["test"]) == sum(
        f != held_out.features["family"].str2int("serif") for f in held_out["family"]
    )


def test_a_model_with_its_heads_is_taken_as_it_is(options, tmp_path):
    folder = saved(tmp_path / "model", TASKS)
    job = SomeTasksJob(options(model=folder, image_size=None))
    weights = MultiHeadClassifier.load(folder).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in job.train().state_dict().items())
    with pytest.raises(DTLError, match=re.escape("case, rotation is only there, or has other classes")):
        wrong = saved(tmp_path / "wrong", {"case": ("lower", "upper"), "weight": TASKS["weight"]})
        SomeTasksJob(options(model=wrong, image_size=None))
    (tmp_path / "wrong" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DTLError, match="cannot be loaded as a model of several tasks"):
        SomeTasksJob(options(model=wrong, image_size=None))
    plain = AutoModelForImageClassification.from_config(CONFIGS["resnet"]())
    plain.save_pretrained(tmp_path / "plain")
    job = SomeTasksJob(options(model=str(tmp_path / "plain"), output_dir=str(tmp_path / "third")))
    assert {t: job.model.heads[t].out_features for t in TASKS} == {"case": 2, "weight": 2, "rotation": 1}


def test_a_number_alone_is_forgotten_without_an_attack_and_a_head_that_is_not_kept_is_told(options, tmp_path, caplog):
    config = CONFIGS["vit"]()
    config.image_size, config.patch_size = 14, 7
    config.id2label, config.label2id = {0: "cat", 1: "dog"}, {"cat": 0, "dog": 1}
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "plain")
    embedded_processor(14).save_pretrained(tmp_path / "plain")
    job = SomeTasksJob(options(forget_tasks="rotation", model=str(tmp_path / "plain")))
    assert outlook(job).endswith("Nothing is attacked: what is forgotten has no classes.")
    assert "The head of" in caplog.text and "(cat, dog) is not kept: each task gets a new one" in caplog.text


def test_a_draw_of_images_spares_what_a_given_model_is_to_forget(options, tmp_path):
    given = {"model": saved(tmp_path / "model", TASKS), "image_size": None, "forget": "family=serif"}
    whole, drawn = (
        SomeTasksJob(options(**given, images=images, output_dir=str(tmp_path / str(images)))).scenario
        for images in (None, 20)
    )
    assert whole.data.train_rows[whole.rows].tolist() == drawn.data.train_rows[drawn.rows].tolist()
    assert len(drawn.data.train) == len(drawn.images["train"]) == len(drawn.rows) + 20
    assert set(drawn.data.train.select(drawn.rows)["case"]) == {0, 1}
    again = SomeTasks(ScenarioSpec.from_dict(drawn.spec.to_dict()), 2)
    assert again.rows == drawn.rows and again.data.train_rows.tolist() == drawn.data.train_rows.tolist()
    for own in ({}, given | {"forget": "random=5"}):  # trained here, and a share of those that are drawn
        other = SomeTasksJob(
            options(**{"forget": "family=serif"} | own, images=20, output_dir=str(tmp_path / str(len(own))))
        )
        assert len(other.scenario.data.train) == 20
    with pytest.raises(DTLError, match="images is 110, but .* are to be kept"):
        SomeTasksJob(options(**given, images=110))


def test_an_interrupted_stage_goes_on_as_if_it_had_not_been(options, tmp_path, monkeypatch):
    steps = []

    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)
            if steps == [1, 2, 3]:
                raise KeyboardInterrupt

    chosen = {"model": saved(tmp_path / "model", TASKS), "image_size": None, "forget_tasks": "case"}
    chosen |= {"method": "multitask:forget_until=steps", "learning_rate": 1e-2}
    chosen |= {"steps": 4, "save_steps": 2}
    whole, cut = (SomeTasksJob(options(output_dir=str(tmp_path / name), **chosen)) for name in ("whole", "cut"))
    wanted = whole.unlearn(whole.choices[0], whole.model).state_dict()
    with monkeypatch.context() as patched:
        build = SomeTasksJob._trainer

        def interrupted(*args):
            trainer = build(*args)
            trainer.add_callback(Interrupt())
            return trainer

        patched.setattr(SomeTasksJob, "_trainer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            cut.unlearn(cut.choices[0], cut.model)
        found = cut.unlearn(cut.choices[0], cut.model).state_dict()
    assert steps == [1, 2, 3, 3, 4]
    assert all(torch.allclose(value, wanted[name], atol=1e-6) for name, value in found.items())
    given = whole.model.state_dict()
    assert not torch.equal(found["heads.case.weight"], given["heads.case.weight"])
    assert torch.equal(found["heads.weight.weight"], given["heads.weight.weight"])
    stage = cut.disposal_stage(cut.choices[0])
    assert cut.cost(stage) is None and whole.cost(stage)["cpu"] > 0, "of a stage done in two parts it is not known"


def test_scores_and_their_impact_equal_hand_values(options, tmp_path):
    job = SomeTasksJob(options(forget_tasks="case", forget="random=20", membership=False))
    # a head's bias alone answers: everything is upper, regular, and turned by 0.5
    before, after = job.model, SomeTasksJob(options(output_dir=str(tmp_path / "2"), forget_tasks="case")).model
    for model, case in ((before, 0), (after, 1)):
        for task, bias in (("case", np.eye(2)[case]), ("weight", np.eye(2)[0]), ("rotation", [0.5])):
            torch.nn.init.zeros_(model.heads[task].weight)
            model.heads[task].bias.data = torch.tensor(bias, dtype=torch.float32)
    scores, notes = job.measure({"undisposed": before, "scrubbed": after}).accuracy, []
    impact = job.scenario.impact(scores, "scrubbed", notes)
    assert notes == ["UIS of the task rotation: left out, the original model scores 0 on it."]
    labels, forgotten = job.images["train"].labels, np.isin(np.arange(120), job.scenario.rows)
    upper = (labels["case"] == 0).double().numpy()
    found = {task: {split: own["scrubbed"] for split, own in by.items()} for task, by in scores.items()}
    assert found["case"]["forget"] == pytest.approx(1 - upper[forgotten].mean())
    assert scores["case"]["retain"]["undisposed"] == pytest.approx(upper[~forgotten].mean())
    turned = labels["rotation"].double().numpy()
    assert found["rotation"]["forget"] == pytest.approx(1 - ((turned[forgotten] - 0.5) ** 2).mean() / turned.var())
    o_t = (job.images["test"].labels["case"] == 0).double().mean().item()
    by_hand = (abs(o_t - (1 - o_t)) + abs(o_t - found["case"]["forget"])) / o_t / 2
    assert impact.by_task == pytest.approx({"case": by_hand, "weight": 0})
    assert impact.mean == pytest.approx(by_hand / 2)
