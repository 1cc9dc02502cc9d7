"""Instance-wise unlearning: images, labels and options that are refused, left out or kept."""

import copy
import logging

import pytest
import torch
from instancewise_toys import PLAIN, QUICK, build, known, one_headed
from method_checks import assert_same
from toy_tasks import digits, two_headed

from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.methods import AlreadyForgottenError, InstanceUnlearningConfig
from hf_dtl.trainers.chunks import Chunk
from hf_dtl.trainers.instances import new_rows


def test_what_is_forgotten_already_and_what_comes_twice_is_named(tmp_path, caplog):
    model = one_headed()
    data = known(model, 6)
    data.labels[1] = (data.labels[1] + 1) % 6
    data.labels[4] = (data.labels[4] + 2) % 6
    data = data.subset([0, 1, 2, 3, 4, 5, 2, 0])
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        t = build(tmp_path, model, data, rows=[10, 11, 12, 13, 14, 15, 16, 17], **PLAIN)
    assert "misnames them already: rows 11, 14." in caplog.text
    assert "the same image comes before: rows 16, 17." in caplog.text
    assert t.instances.rows == [10, 12, 13, 15] and t.skipped.rows == [11, 14] and len(t.train_dataset.forget) == 4


def test_collages_keep_what_is_misnamed_already_as_it_is(tmp_path, caplog):
    model, data, _ = digits()
    data = data.subset(range(6))
    with torch.no_grad():
        named = model(data.pixel_values).logits.argmax(-1)
    data.labels[:] = named
    data.labels[2] = (named[2] + 1) % 3
    own = {"strategy": "collages", "optim": "sgd"} | PLAIN | {"margin": 0.05}
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        t = build(tmp_path, copy.deepcopy(model), data, rows=range(10, 16), **own)
    assert "Only kept so, because the model misnames them already: row 12." in caplog.text
    assert t.skipped.rows == [] and t.instances.rows == list(range(10, 16)) and 12 not in t.remaining_rows()
    logits = torch.nn.functional.one_hot(named, 3) * 4.0
    logits.requires_grad_()
    chunk = Chunk(data.pixel_values, data.labels, torch.arange(len(data)), seed=0)
    (push,) = torch.autograd.grad(t.forget_loss(logits, chunk), logits)
    assert push.abs().sum(1).ne(0).tolist() == [True, True, False, True, True, True], "none as long as it is misnamed"
    with torch.no_grad():
        t.model.heads["target"].bias[data.labels[2]] += 100  # it comes back
    assert 12 in t.remaining_rows()
    relabel = build(tmp_path, copy.deepcopy(model), data, goal="relabel", **own)
    assert relabel.aims[2] == named[2] and (relabel.aims != data.labels).all(), "it keeps the name that it has"


def test_what_is_named_again_afterwards_is_told(tmp_path, caplog):
    model, data, _ = digits()
    data = data.subset(range(5))
    data.labels[0] = (data.labels[0] + 1) % 3
    t = build(tmp_path, copy.deepcopy(model), data, max_steps=1, rows=range(20, 25), **PLAIN)
    with torch.no_grad():
        t.model.heads["target"].bias[data.labels[0]] += 100
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        t.warn_of_remaining()
    assert "now named by their label: row 20." in caplog.text


def test_nothing_left_to_forget(tmp_path):
    model = one_headed()
    before, data = copy.deepcopy(model), known(model)
    data.labels = (data.labels + 1) % 6
    with pytest.raises(AlreadyForgottenError, match="nothing to forget: the model misnames them already .rows 0, 1"):
        build(tmp_path, model, data)
    assert_same(model, before)


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        ({2: 6}, {}, DataError, "1 of 7 images have a label above 5, .*: row 2"),
        ({2: -1}, {}, DataError, "have no label .*: row 2"),
        ({}, {"new_labels": [1, 2]}, DataError, "new_labels has 2 entries for 7 images"),
        ({}, {"rows": [1]}, DataError, "rows has 1 entries for 7 images"),
        ({}, {"new_labels": [1.5] * 7}, DataError, "new_labels has 1.5: each is a row of the head"),
        ({}, {"new_labels": ["owl"] * 7}, DataError, "new_labels has owl, which the model's head does not name"),
        ({}, {"new_labels": "same"}, DataError, "new label of rows 0, 1, 2, 3, 4, 5, 6 is the old one"),
        ({}, {"new_labels": "beyond"}, DataError, "new label 6 of rows 0, .* is not one of the head's 6"),
        ({}, {"new_labels": "next", "goal": "misclassify"}, ConfigError, "new_labels are given, but goal='miscl"),
        ({}, {"delta": 0.1}, ConfigError, "delta=0.1 belongs to goal='misclassify'"),
        ({}, {"retain_task": "target"}, ConfigError, "forget_task='source' and retain_task='target' differ"),
    ],
)  # fmt: skip
def test_bad_labels_and_heads(tmp_path, labels, options, error, message):
    model = two_headed()
    before, data = copy.deepcopy(model), known(model)
    for row, label in labels.items():
        data.labels[row] = label
    shift = {"same": 0, "beyond": 6, "next": 1}.get(str(options.get("new_labels")))
    if shift is not None:
        new = data.labels + shift if shift != 1 else (data.labels + 1) % 6
        options = options | {"new_labels": new.clamp_max(6).tolist()}
    with pytest.raises(error, match=message):
        build(tmp_path, model, data, **{"goal": "relabel"} | PLAIN | options)
    assert_same(model, before)


def test_new_labels_may_be_names_of_classes():
    assert new_rows(["Dog", 2, "cat"], ("cat", "dog", "fox")) == [1, 2, 0]
    assert new_rows(torch.tensor([2, 0]), ("cat", "dog", "fox")) == [2, 0]


def test_one_image_cannot_have_two_new_labels(tmp_path):
    data = known(one_headed(), 2).subset([0, 1, 0])
    new = [(y + 1) % 6 for y in data.labels.tolist()]
    t = build(tmp_path, forget=data, goal="relabel", new_labels=new, **PLAIN)
    assert t.instances.rows == [0, 1] and t.aims.tolist() == new[:2]
    new[2] = (new[2] + 1) % 6 if (new[2] + 1) % 6 != data.labels[2] else (new[2] + 2) % 6
    with pytest.raises(DataError, match="Row 2 is the same image as another one, with another new label"):
        build(tmp_path, forget=data, goal="relabel", new_labels=new, **PLAIN)


def test_a_head_with_one_class_and_no_image(tmp_path):
    model = two_headed()
    model.remove_head("source")
    with pytest.raises(ModelError, match="one label, '0': it answers that for every image"):
        model.add_head("source", ["0"])
    with pytest.raises(DataError, match="There is no image to forget"):
        build(tmp_path, forget=known(one_headed()).subset([]))


def test_drawn_new_labels_depend_on_the_seed_alone(tmp_path):
    options = {"goal": "relabel"} | PLAIN
    one, two, other = (build(tmp_path, seed=seed, **options) for seed in (3, 3, 5))
    assert torch.equal(one.aims, two.aims) and not torch.equal(one.aims, other.aims)
    assert (one.aims != one.instances.images.labels).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "hide"}, "goal='hide'"), ({"criterion": "rank"}, "criterion='rank'"),
        ({"delta": -1.0}, "delta=-1.0"),
        ({"examples": 0}, "examples=0"), ({"epsilon": 0.0}, "epsilon=0.0"), ({"step_size": 0.0}, "step_size=0.0"),
        ({"attack_steps": 0}, "attack_steps=0"), ({"check_every": 0}, "check_every=0"),
        ({"importance_weight": -1.0}, "importance_weight=-1.0"), ({"threshold": 0.0}, "threshold=0.0"),
        ({"project": True, "adversarial": False}, "set adversarial=True"),
        ({"target_ce_weight": 0.0}, "nothing uses the examples"),
    ],
)  # fmt: skip
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        InstanceUnlearningConfig(output_dir=str(tmp_path), **QUICK | options)


def test_defaults_of_l2ul_are_the_papers(tmp_path):
    own = {"strategy": "l2ul", "retain_augmentation": "affine"}
    args = InstanceUnlearningConfig(output_dir=str(tmp_path), use_cpu=True, **own)
    assert (
        args.adversarial and args.importance and (args.margin, args.forget_weight, args.max_steps) == (0, 0.125, 1000)
    )
    assert (args.optim, args.optim_args, args.learning_rate) == ("sgd", "momentum=0.9", 1e-3)
    assert (args.examples, args.epsilon, args.step_size, args.attack_steps) == (20, 4.0, 0.1, 100)
    assert args.importance_weight == 1 and args.retain_augmentation == "none" and args.delta == 0
    t = build(tmp_path, max_steps=1, **PLAIN)
    assert t.create_optimizer().param_groups[0]["momentum"] == 0.9
