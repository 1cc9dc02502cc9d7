"""Unseen labels: only answers that an unseeing model would miss are taught, by steps that spare retained inputs."""

import copy

import pytest
import torch
from method_checks import assert_resumes, assert_split_does_not_matter, build
from toy_tasks import OPTIONS, digits, part, right, target, two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.functional import held_out_answers
from hf_dtl.methods import ProjectedGradientConfig, ProjectedGradientTrainer, UnseenLabelConfig, UnseenLabelTrainer
from hf_dtl.trainers.probes import read

UNSEEN = (UnseenLabelConfig, UnseenLabelTrainer)
LABELS = {"target_ce_weight": 1.0, "retain_augmentation": "none"}


def a_tenth():
    """Positions of a tenth of the images of `digits`, as a mask."""
    _, data, _ = digits()
    return torch.arange(len(data.labels)) % 10 == 3


def trainer(folder, chosen, held_out=None, model=None, **options):
    known, data, _ = digits()
    args = UnseenLabelConfig(output_dir=str(folder), **OPTIONS | LABELS | {"learning_rate": 1.0} | options)
    return UnseenLabelTrainer(
        copy.deepcopy(known if model is None else model), args, part(data, chosen), part(data, ~chosen),
        eval_dataset=held_out,
    )  # fmt: skip


def test_a_class_is_forgotten_and_the_others_are_kept(tmp_path):
    _, data, _ = digits()
    chosen = data.labels == 1
    t = trainer(tmp_path, chosen, max_steps=30)  # no held-out images are needed
    assert len(t.wrong) == int(chosen.sum()) and not (t.wrong == 1).any(), "of a class that is gone, every image"
    t.train()
    scrubbed = t.export()
    assert right(scrubbed, part(data, chosen)) < 0.1 and right(scrubbed, part(data, ~chosen)) > 0.9


def test_as_many_images_are_answered_wrong_as_held_out_ones(tmp_path):
    _, data, held_out = digits()
    poor = copy.deepcopy(held_out)
    poor.labels[::4] = (poor.labels[::4] + 1) % 3
    chosen = a_tenth()
    share = 1 - right(digits()[0], poor)
    assert 0.2 < share < 0.4
    t = trainer(tmp_path, chosen, poor)
    assert len(t.wrong) == len(t.train_dataset.forget) == round(share * int(chosen.sum()))
    t = trainer(tmp_path, chosen, wrong_share=0.5, max_steps=40, lr_scheduler_type="linear")
    taught = torch.stack([item["pixel_values"] for item in t.train_dataset.forget])
    assert len(taught) == round(0.5 * int(chosen.sum()))
    t.train()
    scrubbed = t.export()
    with torch.no_grad():
        assert (scrubbed(taught).logits.argmax(-1) == t.wrong).float().mean() > 0.9
    assert right(scrubbed, part(data, chosen)) == pytest.approx(0.5, abs=0.1)
    assert right(scrubbed, part(data, ~chosen)) > 0.95


def test_the_answers_come_from_retained_images_alone(tmp_path):
    """By hand, on all depths; the forgotten images' own labels only decide which answer is wrong."""
    known, data, _ = digits()
    chosen = a_tenth()
    t = trainer(tmp_path, chosen, wrong_share=1.0, support=10_000)
    forget, retain = part(data, chosen), part(data, ~chosen)
    with torch.no_grad():
        told, asked = (read(*t.teacher.eval().hidden_states(d.pixel_values)) for d in (retain, forget))
    answers = held_out_answers(told, retain.labels, asked, 3)
    wanted = answers.scatter(1, forget.labels[:, None], -torch.inf).argmax(1)
    assert torch.equal(t.wrong, wanted)
    assert (answers.argmax(1) == forget.labels).float().mean() > 0.7, "they foretell what is right, too"


def change(t):
    """Share of the change of all weights that moves what the layers do on retained inputs."""
    given, moved, everything = dict(t.teacher.named_modules()), 0.0, 0.0
    moments = t.retained_moments(None)
    for name, layer in t._projected.items():
        update = (layer.weight - given[name].weight).detach().double()
        moment = moments.moments[moments.shared.get(name, name)]
        rows = update.reshape(len(moment), -1, moment.shape[1])
        moved += ((rows @ moment) * rows).sum().item() / moment.diagonal(dim1=1, dim2=2).mean().item()
        everything += rows.square().sum().item()
    return moved / everything


def test_steps_are_damped_where_retained_inputs_are(tmp_path):
    shares = []
    for damping in (1e4, 0.1, 0.001):
        options = dict(wrong_share=0.5, max_steps=3, learning_rate=0.1)
        t = trainer(tmp_path, a_tenth(), damping=damping, max_damped_grad_norm=0.0, **options)
        t.train()
        shares.append(change(t))
    assert shares[0] > 2 * shares[1] > 4 * shares[2] > 0


def test_everything_but_the_weights_of_layers_is_bit_identical(tmp_path):
    model = two_headed("resnet")
    options = dict(forget=target(), retain=target(), forget_task="target", wrong_share=0.5, learning_rate=0.1) | LABELS
    t = build(UNSEEN, tmp_path, model, **options)
    t.train()
    layers = {f"{name}.weight" for name in t._projected}
    mine, given = t.model.state_dict(), t.teacher.state_dict()
    for name in given:
        assert torch.equal(mine[name], given[name]) == (name not in layers or name.startswith("heads.source")), name


def test_result_does_not_depend_on_the_split_and_resumes(tmp_path):
    options = dict(forget=target(), retain=target(), forget_task="target", wrong_share=0.6, learning_rate=0.1) | LABELS
    assert_split_does_not_matter(UNSEEN, tmp_path, num_chunks=4, tolerance=1e-4, **options)
    assert_resumes(UNSEEN, tmp_path, **options)


def test_moments_of_all_training_data_serve_as_well(tmp_path):
    model, data, _ = digits()
    file = tmp_path / "moments.safetensors"
    args = ProjectedGradientConfig(output_dir=str(tmp_path / "all"), **OPTIONS)
    ProjectedGradientTrainer(copy.deepcopy(model), args, data, data).save_subspace(file)
    one, other = (
        trainer(tmp_path / name, a_tenth(), wrong_share=0.5, subspace_file=path)
        for name, path in (("a", None), ("b", str(file)))
    )
    for name, vectors in one.basis.vectors.items():
        update = torch.eye(vectors.shape[1])
        if len(vectors) == 1:
            a, b = (t.basis.project(name, update) for t in (one, other))
            assert (a - b).norm() / a.norm() < 1e-2, name
    with pytest.raises(ConfigError, match="weights differ"):
        trainer(tmp_path, a_tenth(), wrong_share=0.5, subspace_file=str(file), model=_other())


def _other():
    model = copy.deepcopy(digits()[0])
    with torch.no_grad():
        next(model.parameters()).add_(1)
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": 0.0}, "damping=0.0 must be > 0"),
        ({"max_damped_grad_norm": -1.0}, "max_damped_grad_norm=-1.0 must be >= 0"),
        ({"ridge": -1.0}, "ridge=-1.0 must be > 0"),
        ({"support": 0}, "support=0 must be >= 1"),
        ({"check_images": 0}, "check_images=0 must be >= 1"),
        ({"wrong_share": 1.5}, r"wrong_share=1.5 must be in 0\.\.1"),
        ({}, "Give held-out images of what is retained"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        trainer(tmp_path, a_tenth(), **options)


def test_two_tasks_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="of the tasks 'source' and 'target'"):
        build(UNSEEN, tmp_path, wrong_share=0.5, **LABELS)


def test_held_out_images_without_fault_leave_one_image_to_change(tmp_path, caplog):
    t = trainer(tmp_path, a_tenth(), wrong_share=0.0)
    assert len(t.wrong) == 1 and "next to nothing to change" in caplog.text
