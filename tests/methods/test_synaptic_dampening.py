"""Selective synaptic dampening: which weights move, by how much, and that nothing is trained."""

import logging

import pytest
import torch
from architectures import CONFIGS
from method_checks import assert_same, build, forget_one
from torch.nn import functional as F
from toy_tasks import digits, images, part, right, source, target, two_headed
from transformers import AutoModelForImageClassification

from hf_dtl.errors import ConfigError
from hf_dtl.methods import SelectiveSynapticDampeningConfig, SelectiveSynapticDampeningTrainer
from hf_dtl.trainers.training import run_trainer

SSD = (SelectiveSynapticDampeningConfig, SelectiveSynapticDampeningTrainer)


def one_by_one(trainer, shown):
    """Mean squared gradients of the original model's CE, by one ordinary backward pass an image."""
    model = trainer.teacher.requires_grad_(True)
    names = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    total = {n: torch.zeros_like(model.get_parameter(n)) for n in names}
    for data, row, task in shown:
        model.zero_grad()
        x, y = data.pixel_values[row : row + 1], data.labels[row : row + 1]
        F.cross_entropy(model(x, task=task), y).backward()
        for n in names:
            gradient = model.get_parameter(n).grad
            if gradient is not None:
                total[n] += gradient**2
    return {n: t / len(shown) for n, t in total.items()}


def everything(forget, retain):
    return [(forget, i, "source") for i in range(len(forget))] + [(retain, i, "target") for i in range(len(retain))]


@pytest.mark.parametrize("name", CONFIGS)
def test_information_equals_a_backward_pass_an_image(tmp_path, name):
    forget, retain = images("mnist[0,1,2,3,4,5]", 2), images("mnist[6,7,8,9]", 2)
    t = build(SSD, tmp_path, two_headed(name), forget=forget, retain=retain)
    for which, shown in (("forget", everything(forget, [])), ("all", everything(forget, retain))):
        mine, wanted = t.information(which), one_by_one(t, shown)
        assert len(mine) == len(wanted)
        a, b = (torch.cat([v.double().ravel() for v in values]) for values in (mine, wanted.values()))
        assert (a - b).norm() / b.norm() < 1e-4
        assert (a.sqrt() - b.sqrt()).norm() / b.sqrt().norm() < 1e-4, "small ones too"


def test_the_cap_draws_images_by_the_seed(tmp_path):
    t = build(SSD, tmp_path, fisher_images=7)
    shown = everything(source(), target())
    drawn = torch.randperm(len(shown), generator=torch.Generator().manual_seed(3))[:7].tolist()
    assert any(i < len(source()) for i in drawn) and any(i >= len(source()) for i in drawn)
    wanted = one_by_one(t, [shown[i] for i in drawn])
    for mine, theirs in zip(t.information("all"), wanted.values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-9)
    other = build(SSD, tmp_path, fisher_images=7, seed=4).information("all")
    assert not all(torch.allclose(a, b) for a, b in zip(other, t.information("all"), strict=True))


@pytest.mark.parametrize("name", ["vit", "resnet"])
@pytest.mark.parametrize(("alpha", "dampening"), [(1.1, 1.0), (0.7, 0.5)])
def test_only_weights_that_matter_more_to_the_forget_images_shrink_and_by_the_ratio(tmp_path, name, alpha, dampening):
    t = build(SSD, tmp_path, two_headed(name), alpha=alpha, dampening=dampening)
    forget, total = t.information("forget"), t.information("all")
    t.train()
    names = [n for n, p in t.model.named_parameters() if p.requires_grad]
    mine, given, chosen = t.model.state_dict(), t.teacher.state_dict(), 0
    for n, f, d in zip(names, forget, total, strict=True):
        selected = f > alpha * d
        chosen += int((mine[n] != given[n]).sum())
        assert torch.equal(mine[n][~selected], given[n][~selected]), n
        factor = (dampening * d / f).clamp_max(1.0)[selected]
        torch.testing.assert_close(mine[n][selected], given[n][selected] * factor, rtol=1e-6, atol=0)
        assert (mine[n].abs() <= given[n].abs()).all()
    assert chosen > 10
    untouched = given.keys() - set(names)
    assert "heads.source.weight" in untouched and all(torch.equal(mine[n], given[n]) for n in untouched)


def test_it_takes_no_step_and_runs_like_a_stage(tmp_path, monkeypatch):
    t = build(SSD, tmp_path / "checkpoints", alpha=1.1)
    monkeypatch.setattr(t, "create_optimizer", lambda *args: pytest.fail("an optimizer was made"))
    monkeypatch.setattr(t, "training_step", lambda *args: pytest.fail("a step was taken"))
    run_trainer(t, tmp_path, "ssd")
    assert t.state.global_step == 0
    (entry,) = t.state.log_history
    pairs = [(p, t.teacher.get_parameter(n)) for n, p in t.model.named_parameters() if p.requires_grad]
    moved = sum(int((a != b).sum()) for a, b in pairs) / sum(a.numel() for a, _ in pairs)
    assert 0 < moved <= entry["dampened_share"] < 1, "weights of zero do not move"
    t.save_model(tmp_path / "scrubbed")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "scrubbed").eval()
    assert_same(loaded, t.export())
    output = build(SSD, tmp_path, alpha=1.1).train(resume_from_checkpoint=None)
    assert (output.global_step, output.metrics) == (0, {"dampened_share": entry["dampened_share"]})


def test_forgets_a_class_and_keeps_the_others(tmp_path):
    _, data, held_out = digits()
    t = forget_one(SSD, tmp_path, alpha=1.3, dampening=0.1)
    t.train()
    scrubbed = t.export()
    assert right(scrubbed, part(data, data.labels == 1)) < 0.2
    assert right(scrubbed, part(held_out, held_out.labels != 1)) > 0.9


def test_where_nothing_can_be_selected_it_says_so(tmp_path, caplog):
    """Information on all images holds that on the forget images, here a third of them."""
    with caplog.at_level(logging.WARNING, "hf_dtl"):
        t = forget_one(SSD, tmp_path)
        t.train()
    assert "at most 2.93 times as large; lower alpha (10)" in " ".join(caplog.text.split())
    assert_same(t.model, t.teacher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha=-1.0 must be >= 0"),
        ({"alpha": float("nan")}, "alpha=nan"),
        ({"dampening": -0.1}, "dampening=-0.1 must be >= 0"),
        ({"fisher_images": 0}, "fisher_images=0 must be >= 1"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(SSD, tmp_path, **options)
