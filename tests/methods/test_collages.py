"""Instance-wise unlearning with collages of the images alone."""

import copy

import pytest
import torch
from method_checks import assert_same
from toy_tasks import OPTIONS, digits, right

from hf_dtl.data import embedded_processor
from hf_dtl.errors import ConfigError
from hf_dtl.methods import InstanceUnlearningConfig, InstanceUnlearningTrainer
from hf_dtl.trainers.collages import Collages

QUICK = {k: v for k, v in OPTIONS.items() if k not in ("optim", "target_ce_weight", "learning_rate")}


def build(folder, model, images, **options):
    args = InstanceUnlearningConfig(output_dir=str(folder), **QUICK | {"learning_rate": 5e-4} | options)
    return InstanceUnlearningTrainer(model, args, images, processing_class=embedded_processor(16))


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("goal", ["misclassify", "relabel"])
def test_forgets_with_the_images_alone_and_keeps_more_than_the_papers_method(tmp_path, goal, count):
    model, data, _ = digits()
    few, rest = data.subset(range(count)), data.subset(range(count, len(data)))
    kept = {}
    for strategy, options in (
        ("collages", {"forget_weight": 1.0}),
        ("l2ul", {"learning_rate": 2e-2, "forget_weight": 0.5}),
    ):
        own = {"examples": 3, "attack_steps": 3, "max_steps": 300} | options
        t = build(tmp_path, copy.deepcopy(model), few, goal=goal, strategy=strategy, **own)
        t.train()
        assert t.remaining_rows() == [] and right(t.export(), few) == 0 and t.state.global_step < 300
        kept[strategy] = right(t.export(), rest)
    assert kept["collages"] > kept["l2ul"], kept


def test_collages_are_the_same_whenever_they_are_asked_for_and_half_of_one_label():
    _, data, _ = digits()
    few = data.subset(range(12))
    few.pixel_values = torch.arange(12.0)[:, None, None, None].expand(12, 1, 8, 8).contiguous()
    one, other = Collages(few, 50, seed=0), Collages(few, 50, seed=1)
    assert len(one) == 600 == len(one.labels)
    items = [one[i] for i in range(600)]
    assert all(torch.equal(one[i]["pixel_values"], items[i]["pixel_values"]) for i in (599, 3, 0))
    several = one.__getitems__([5, 17, 599])
    assert all(
        torch.equal(a["pixel_values"], items[i]["pixel_values"]) for a, i in zip(several, (5, 17, 599), strict=True)
    )
    assert any((one[i]["pixel_values"] != other[i]["pixel_values"]).any() for i in range(20))
    assert [item["labels"] for item in items] == one.labels.tolist()
    assert len({item["pixel_values"].numpy().tobytes() for item in items}) > 200
    alike = []
    for i, item in enumerate(items):
        names = item["pixel_values"].unique().long().tolist()
        assert len(names) <= 2 and i % 12 in names
        alike += [few.labels[n] == few.labels[i % 12] for n in names if n != i % 12]
    assert 0.5 < sum(alike) / len(alike) < 0.8  # half the time the same label, and then by chance
    assert all(torch.isfinite(Collages(few.subset([3]), 9, seed=0)[i]["pixel_values"]).all() for i in range(9))


def test_no_pixel_of_an_adversary_is_made_and_the_loss_is_that_of_the_margin(tmp_path, monkeypatch):
    model, data, _ = digits()
    few = data.subset(range(4))
    monkeypatch.setattr("hf_dtl.methods.instancewise.make_adversaries", None)
    t = build(tmp_path, copy.deepcopy(model), few, max_steps=1, margin=0.2)
    with torch.no_grad():
        z = t.teacher(few.pixel_values, task="target")
    own = z.gather(1, few.labels[:, None])[:, 0]
    wanted = (own - z.scatter(1, few.labels[:, None], float("-inf")).amax(1) + 0.2).mean().item()
    t.train()
    log = next(e for e in t.state.log_history if "disposal_value" in e)
    assert log["disposal_value"] == pytest.approx(wanted, rel=1e-4)
    assert log["retain_loss"] == pytest.approx(0, abs=1e-6) and "importance_penalty" not in log


def test_it_resumes_to_the_same_weights(tmp_path):
    model, data, _ = digits()
    options = {"max_steps": 4, "stop_when_forgotten": False, "save_strategy": "steps", "save_steps": 2}
    whole = build(tmp_path / "whole", copy.deepcopy(model), data.subset(range(5)), **options)
    whole.train()
    resumed = build(tmp_path / "whole", copy.deepcopy(model), data.subset(range(5)), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same(resumed.model, whole.model)


def test_with_projection_updates_stay_outside_the_collages_span(tmp_path):
    model, data, _ = copy.deepcopy(digits())
    t = build(
        tmp_path, model, data.subset(range(3)), project=True, threshold=0.8, max_steps=3, distillation_weight=0.0
    )
    t.train()
    given = dict(t.teacher.named_modules())
    shares = [
        t.basis.protected_share(name, (t.model.get_submodule(name).weight - given[name].weight).detach())
        for name in t.basis.vectors
    ]
    assert shares and max(shares) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "magic"}, "strategy='magic' is unknown; use one of: collages, l2ul"),
        ({"adversarial": True}, "adversarial=True belongs to strategy='l2ul'"),
        ({"target_ce_weight": 1.0}, "target_ce_weight=1 needs labels, which collages do not have"),
        ({"distillation_weight": 0.0}, "Nothing uses the collages"),
        ({"delta": 0.05}, "margin=0.05 and delta=0.05 are two losses"),
        ({"margin": -1.0}, "margin=-1.0 must be >= 0"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        InstanceUnlearningConfig(output_dir=str(tmp_path), use_cpu=True, **options)


def test_what_is_given_wins_over_the_strategys_defaults(tmp_path):
    own = {"output_dir": str(tmp_path), "use_cpu": True}
    args = InstanceUnlearningConfig(**own, learning_rate=1e-5, forget_weight=2.0, optim="sgd")
    assert (args.learning_rate, args.forget_weight, args.optim, args.optim_args) == (1e-5, 2.0, "sgd", None)
    args = InstanceUnlearningConfig(**own)
    assert (args.learning_rate, args.optim, args.max_steps, args.margin) == (5e-5, "adamw_torch", 600, 0.05)
    assert not args.adversarial and not args.importance
