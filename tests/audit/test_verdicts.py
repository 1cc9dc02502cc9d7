"""What the audit says of models whose leakage is known: a copy, a fresh one, and one with a broken head only."""

import copy
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from attack_toys import ALL, named, trained
from audit_toys import resnet, split, task, vit

from hf_dtl.audit import leakage, run_audit, scratch_model, scratch_models

TASK = task(noise=2.0)
ATTACKS = ("linear_probe", "full", "linear_probe_published", "full_published")
CONFIG = replace(ALL, attacks=ATTACKS, seeds=(0, 1, 2, 3), full_min_steps=30, full_learning_rates=(1e-3, 5e-3))


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
    assert found.headline.undefined is None and found.floor == "scratch"
    return found


def test_an_unscrubbed_copy_leaks_everything(references):
    assert audited(references, copy.deepcopy(references[0]["undisposed"])).headline.mean == pytest.approx(1.0)


def test_a_model_with_a_random_head_leaks_everything(references):
    damaged = copy.deepcopy(references[0]["undisposed"])
    head = damaged.classifier if hasattr(damaged.classifier, "weight") else damaged.classifier[-1]
    with torch.no_grad():
        head.weight.normal_()
        head.bias.normal_()
    found = audited(references, damaged)
    assert found.headline.mean > 0.8
    same = found.accuracy_by_attack["full"]
    assert same["scrubbed"] == same["undisposed"], "the new head never sees the damaged one"


def test_a_fresh_model_leaks_nothing_beyond_noise(references):
    found = audited(references, scratch_model(references[0]["undisposed"], 77))
    known = {(point.model, point.budget): point.values for point in found.pl_accuracy}
    gaps = [[u - f for u, f in zip(known["undisposed", b], known["scratch", b], strict=True)] for b in CONFIG.budgets]
    error = stdev(map(fmean, zip(*gaps, strict=True))) / len(CONFIG.seeds) ** 0.5
    # Two fresh models differ by chance: two standard errors of their PL accuracies, in units of the gap.
    noise = 2 * (2 * error) / found.headline.gap
    assert abs(found.headline.mean) < max(noise, 0.15), found
