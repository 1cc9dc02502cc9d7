import copy
import math

import pytest
import torch
from method_checks import assert_resumes, assert_split_does_not_matter, assert_trains, build, trained
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector
from toy_tasks import two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.methods.non_fine_tunable import NonFineTunableConfig, NonFineTunableTrainer

PAIR = (NonFineTunableConfig, NonFineTunableTrainer)


@pytest.mark.parametrize("name", ["dinov2", "swin", "resnet"])
def test_architectures_train(tmp_path, name):
    t, logs = assert_trains(PAIR, tmp_path, name, max_steps=2, learning_rate=1e-3)
    wanted = {"disposal_value", "attack_cross_entropy", "source_loss", "retain_loss"}
    assert all(wanted <= entry.keys() for entry in logs)


@pytest.mark.parametrize("suppression", ["uniform", "inverse_ce"])
def test_result_does_not_depend_on_the_split(tmp_path, suppression):
    assert_split_does_not_matter(PAIR, tmp_path, suppression=suppression, tolerance=1e-4)


def test_resumes_exactly(tmp_path):
    assert_resumes(PAIR, tmp_path)


@pytest.mark.parametrize("suppression", ["uniform", "inverse_ce"])
def test_first_step_equals_an_attack_by_hand(tmp_path, suppression):
    """SGD with an optimizer on a real copy; the gradient at the copy, applied to the model."""
    options = dict(inner_steps=3, inner_learning_rate=0.1, suppression=suppression, num_chunks=1, max_steps=1)
    t = build(PAIR, tmp_path, learning_rate=1.0, max_grad_norm=0.0, max_forget_grad_norm=0.0, **options)
    start, chunk = copy.deepcopy(t.model), t.train_dataset[0]["forget"]
    x, y = chunk["pixel_values"], chunk["labels"]
    by_class = [torch.nonzero(y == c).ravel() for c in y.unique()]
    order = torch.cat(by_class)
    support, query = order[::2], order[1::2]
    torch.manual_seed(t.args.seed * 1_000_003)
    head = nn.Linear(16, 6)
    torch.manual_seed(t.args.seed * 1_000_003)
    nn.init.xavier_uniform_(head.weight)
    nn.init.zeros_(head.bias)
    attacker = copy.deepcopy(start)
    attacker.heads["attack"] = head
    optimizer = torch.optim.SGD([*attacker.backbone.parameters(), *head.parameters()], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(attacker(x[support], task="attack"), y[support]).backward()
        optimizer.step()
    attacker.zero_grad()
    logits = attacker(x[query], task="attack")
    if suppression == "uniform":
        loss = F.cross_entropy(logits, torch.full_like(logits, 1 / 6))
    else:
        loss = F.nll_loss(torch.log1p(-logits.softmax(-1)), y[query])
    loss.backward()
    t.train()
    log = next(e for e in t.state.log_history if "disposal_value" in e)
    assert log["disposal_value"] == pytest.approx(loss.item(), rel=1e-4)
    assert log["attack_cross_entropy"] == pytest.approx(F.cross_entropy(logits, y[query]).item(), rel=1e-4)
    expected = F.cross_entropy(start.eval()(x, task="source"), y).item()
    assert log["source_loss"] == pytest.approx(expected, rel=1e-4)
    steps = [a - b for a, b in zip(t.model.backbone.parameters(), start.backbone.parameters(), strict=True)]
    oracle = [torch.zeros_like(p) if p.grad is None else -p.grad for p in attacker.backbone.parameters()]
    assert F.cosine_similarity(parameters_to_vector(steps), parameters_to_vector(oracle), dim=0) > 0.99
    moved, wanted = parameters_to_vector(steps).norm(), parameters_to_vector(oracle).norm()
    assert moved.item() == pytest.approx(wanted.item(), rel=0.05)  # retention adds next to nothing to the first step


def test_what_simulated_attacks_arrive_at_becomes_uniform(tmp_path):
    options = dict(num_chunks=1, inner_steps=2, inner_learning_rate=0.2, optim="adamw_torch", learning_rate=1e-2)
    t = trained(PAIR, tmp_path, max_steps=18, **options)
    values = [e["disposal_value"] for e in t.state.log_history if "disposal_value" in e]
    assert sum(values[-4:]) < 0.9 * sum(values[:4]), values
    assert min(values) > math.log(6) - 1e-4, "reached by uniform outputs"


def test_bf16_stays_near_float32(tmp_path):
    start = parameters_to_vector(two_headed().parameters())
    half, full = (
        parameters_to_vector(trained(PAIR, tmp_path, bf16=b, max_steps=1).model.parameters()) - start
        for b in (True, False)
    )
    assert 0 < (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner_steps": -1}, "inner_steps=-1 must be >= 0"),
        ({"inner_learning_rate": 0.0}, "inner_learning_rate=0.0 must be > 0"),
        ({"suppression": "magic"}, "suppression='magic' is unknown"),
        ({"per_device_train_batch_size": 4}, "chunks of 1 image are too small"),
        ({"activation_checkpointing": True}, "leave it off"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(PAIR, tmp_path, **options)
