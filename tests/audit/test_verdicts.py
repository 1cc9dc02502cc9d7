"""What the audit says of models whose leakage is known: a copy, a fresh one, and one with a broken head only."""

import copy
from dataclasses import replace

import pytest
import torch
from attack_toys import ALL, named, trained
from audit_toys import resnet, split, task, vit

from hf_dtl.audit import leakage, run_audit, scratch_model, scratch_models
from hf_dtl.audit.attacks import GRID

TASK = task(noise=2.0)
CONFIG = replace(ALL, attacks=GRID, seeds=(0, 1, 2, 3), full_min_steps=30, full_learning_rates=(1e-3, 5e-3))


@pytest.fixture(scope="module", params=[vit, resnet])
def references(request, tmp_path_factory):
    """The references, and a store in which they are attacked once."""
    images = split(100, noise=2.0, seed=8)
    undisposed = named(trained(request.param(3, seed=1), images, steps=150), TASK.labels)
    models = {"undisposed": undisposed, "scratch": scratch_models(undisposed, 4)}
    return models, tmp_path_factory.mktemp("audit") / "attacks.jsonl"


def audited(references, scrubbed):
    models, store = references
    records = run_audit({**models, "scrubbed": scrubbed}, {"toy": TASK}, CONFIG, store=store, progress=False)
    found = leakage(records)
    assert found.over_scratch.undefined is None
    return found


def test_an_unscrubbed_copy_leaks_everything(references):
    assert audited(references, copy.deepcopy(references[0]["undisposed"])).over_scratch.mean == pytest.approx(1.0)


def test_a_model_with_a_random_head_leaks_everything(references):
    damaged = copy.deepcopy(references[0]["undisposed"])
    head = damaged.classifier if hasattr(damaged.classifier, "weight") else damaged.classifier[-1]
    with torch.no_grad():
        head.weight.normal_()
        head.bias.normal_()
    found = audited(references, damaged)
    assert found.over_scratch.mean > 0.8
    assert found.by_attack["full"].mean == pytest.approx(1.0), "the new head never sees the damaged one"


def test_a_fresh_model_leaks_nothing_beyond_noise(references):
    found = audited(references, scratch_model(references[0]["undisposed"], 77)).over_scratch
    # Two fresh models differ by chance: two standard errors of their PL accuracies, in units of the gap.
    noise = 2 * (2 * found.gap_error) / found.gap
    assert abs(found.mean) < max(noise, 0.15), found
