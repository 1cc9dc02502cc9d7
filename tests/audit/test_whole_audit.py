"""The audit is tested as it tests others: on models of which it is known what they leak."""

import copy
from dataclasses import replace
from itertools import permutations

import pytest
import torch

from hf_dtl.audit import leakage, no_model, piggyback_attack, run_audit, scratch_model, scratch_models
from hf_dtl.audit.suites import SUITES
from hf_dtl.models.built_in import WIDTHS
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.whole_task_job import WholeTaskJob

FORGOTTEN = {"resnet": {"forget": "glyphs[sans,mono,serif,stix]"},
             "vit": {"forget": "glyphs[upper,lower]", "train_epochs": 48.0}}  # fmt: skip
"""A task of which the weights of such a network matter; a small ViT does not learn families of fonts."""
DRAWS = {"resnet": {}, "vit": {"budgets": (2, 5), "seeds": tuple(range(8))}}
"""Of two classes that 20 images teach as well as the weights do."""
pytestmark = [pytest.mark.slow, pytest.mark.parametrize("setting", FORGOTTEN, indirect=True)]
RETRAINED = 6
"""Models that never saw the source; each is audited as if it were scrubbed, beside each other one as the floor."""


class Setting:
    """An architecture with its models and records of attacks; attacks are kept in one store."""

    def __init__(self, name, folder):
        self.name, self.store = name, folder / "attacks.jsonl"
        options = ForgetOptions(
            architecture=name, **FORGOTTEN[name], novel="none", method="fine_tune", use_cpu=True,
            output_dir=str(folder / "run"), save_steps=100_000,
        )  # fmt: skip
        job = WholeTaskJob(options)
        self.undisposed, self.task = job.prepare(), job.scenario.attacked["source"]
        fresh = scratch_models(self.undisposed, RETRAINED, seed=200)
        kept = job.images["target"]["train"]
        self.retrained = [job.target_alone(f"retrained {i}", model, kept) for i, model in enumerate(fresh)]
        self.floors = {"scratch": scratch_models(self.undisposed, 3), "no_model": no_model(self.task)}

    def leakage(self, scrubbed, retrained=None):
        """The headline of quick-1."""
        models = {"scrubbed": scrubbed, "undisposed": self.undisposed, "retrained": retrained or self.retrained[0]}
        config = replace(SUITES["quick-1"].config(0), **DRAWS[self.name])
        records = run_audit(models | self.floors, {"source": self.task}, config, store=self.store, progress=False)
        return leakage(records).headline


@pytest.fixture(scope="module")
def settings():
    return {}


@pytest.fixture
def setting(request, settings, tmp_path_factory):
    if request.param not in settings:
        torch.manual_seed(0)
        settings[request.param] = Setting(request.param, tmp_path_factory.mktemp(request.param))
    return settings[request.param]


def test_a_model_that_forgot_nothing_leaks_all(setting):
    found = setting.leakage(setting.undisposed)
    print(f"\ngap {found.gap:.3f}")
    assert found.gate == "defined" and found.mean == pytest.approx(1) and found.word == "leaks"


def test_random_weights_leak_nothing(setting):
    found = setting.leakage(scratch_model(setting.undisposed, seed=7))
    print(f"\nrandom weights: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] {found.word}")
    assert found.mean <= 0.05 and found.word != "leaks"


def test_a_damaged_head_hides_nothing(setting):
    damaged = copy.deepcopy(setting.undisposed)
    with torch.no_grad():
        for name, value in damaged.named_parameters():
            if name.startswith("classifier"):
                value.normal_(std=10)
    assert setting.leakage(damaged).mean == pytest.approx(1)


@pytest.mark.parametrize("size", [1e-3, 30.0])
def test_weights_of_another_size_hide_nothing(setting, size):
    """The same function in weights for which learning rates are too large, or gradients vanish."""
    hidden = rescaled(setting.undisposed, size)
    check_leaks_all(setting, hidden, f"rescaled by {size}", within=0.1)


@pytest.mark.parametrize("size", [1e3, 1e20])
def test_channels_of_all_sizes_hide_nothing(setting, size):
    """The same function in channels of which each is of another size, where it is written and where it is read."""
    hidden = unequal(setting.undisposed, size)
    check_leaks_all(setting, hidden, f"channels of sizes up to {size}", within=0.02)
    config = SUITES["standard-1"].config(0)
    records = [
        piggyback_attack(
            model, *(getattr(setting.task, split) for split in ("train", "validation", "test")),
            num_classes=len(setting.task.labels), attack="prototype_400", budget=5, seed=0, config=config,
        ).accuracy
        for model in (hidden, setting.undisposed)
    ]  # fmt: skip
    print(f"fine-tuned: {records[0]:.3f} of {records[1]:.3f}")
    assert records[0] == pytest.approx(records[1], abs=0.03)


def test_models_that_never_saw_the_source_do_not_leak_beside_each_other(setting):
    """A/A: each retrained model audited as if it were scrubbed, with each other one as the floor."""
    found = [setting.leakage(one, other) for one, other in permutations(setting.retrained, 2)]
    assert all(one.gate == "defined" for one in found)
    mean, called = sum(one.mean for one in found) / len(found), sum(one.word == "leaks" for one in found)
    print(f"\nA/A: mean {mean:.3f}, called leaking {called} of {len(found)}")
    assert abs(mean) <= 0.05
    assert called <= len(found) / 20


def check_leaks_all(setting, hidden, told, within):
    """A model that answers as the undisposed one leaks as it does."""
    images = setting.task.test.pixel_values[:50]
    with torch.no_grad():
        assert torch.allclose(hidden(images).logits, setting.undisposed(images).logits, atol=1e-2)
    found = setting.leakage(hidden)
    print(f"\n{told}: {found.mean:.3f} [{found.low:.3f}, {found.high:.3f}] {found.word}")
    assert found.mean == pytest.approx(1, abs=within) and found.word == "leaks"


def rescaled(model, size):
    """The same function with features of another size inside, and a head that undoes it."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        if hasattr(model, "vit"):
            for layer in model.vit.layers if hasattr(model.vit, "layers") else model.vit.encoder.layer:
                names = dict(layer.named_parameters())
                for name, value in names.items():
                    if "query" in name or "q_proj" in name:
                        value.mul_(size)
                    elif "key" in name or "k_proj" in name:
                        value.div_(size)
            for value in model.vit.layernorm.parameters():
                value.mul_(size)
        else:
            last = model.resnet.encoder.stages[-1].layers[-1]
            norms = [m for m in last.modules() if isinstance(m, torch.nn.BatchNorm2d)]
            for norm in (norms[0], norms[-1]):  # of the shortcut, and the last of the branch
                norm.weight.mul_(size)
                norm.bias.mul_(size)
        head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
        head.weight.div_(size)
    return model


def unequal(model, most):
    """The same function with a size of its own for every channel of the last features, and of a ResNet's stages."""
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)

    def sizes(count):
        return most ** (2 * torch.rand(count, generator=generator) - 1)

    head = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    with torch.no_grad():
        if hasattr(model, "vit"):
            own = sizes(head.in_features)
            for value in model.vit.layernorm.parameters():
                value.mul_(own)
        else:
            own = sizes(WIDTHS[0])
            written(model.resnet.embedder.embedder.normalization, own)
            for stage in model.resnet.encoder.stages:
                (layer,) = stage.layers
                first, second = (part for part in layer.layer)
                before, shortcut = own, getattr(layer.shortcut, "normalization", None)
                first.convolution.weight.div_(before[:, None, None])
                if shortcut is not None:
                    layer.shortcut.convolution.weight.div_(before[:, None, None])
                    own = sizes(second.normalization.num_features)
                    written(shortcut, own)
                written(second.normalization, own)
        head.weight.div_(own)
    return model


def written(norm, sizes):
    norm.weight.mul_(sizes)
    norm.bias.mul_(sizes)
