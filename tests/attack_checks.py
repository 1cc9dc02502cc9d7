"""What every attack must hold, as a function that an attack's own tests call."""

import copy
from dataclasses import replace
from statistics import fmean

import torch
from attack_toys import trained
from audit_toys import QUICK, split, task, vit

from hf_dtl.audit import run_audit


def assert_attack(name):
    """It relearns more than guessing, the same again, alone as together, and it changes nothing that it was given."""
    model, toy = trained(vit(), split(20, seed=7)), replace(task(), retain=split(4))
    config, before = replace(QUICK, attacks=(name,)), copy.deepcopy(model.state_dict())

    def records(config):
        return run_audit({"undisposed": model}, {"source": toy}, config, progress=False)

    found = records(config)
    assert {record.attack for record in found} == {name} and len(found) == len(QUICK.budgets) * len(QUICK.seeds)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(record.diverged for record in found)
    assert fmean(record.accuracy for record in found) > 0.5, "three classes: guessing gives a third"
    assert all(0 <= record.validation_accuracy <= 1 for record in found)
    assert records(config) == found
    for record in found:
        (alone,) = records(replace(config, budgets=(record.budget,), seeds=(record.seed,)))
        assert abs(alone.accuracy - record.accuracy) < 0.02, "one image of sixty, by rounding"
