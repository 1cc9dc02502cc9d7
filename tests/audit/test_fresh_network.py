"""The attack that leaves the published weights alone: a small network from random weights."""

import math
from dataclasses import replace

import pytest
import torch
from audit_toys import QUICK, resnet, task, vit

from hf_dtl.audit import no_model, run_audit
from hf_dtl.audit.attacks.fresh_network import FreshNetwork, small_network
from hf_dtl.audit.piggyback import Attacker
from hf_dtl.data import ImageTensors

NAME = "network_photometric"


def stripes(count, seed, size=12):
    """Stripes of two directions, with any phase, polarity and brightness: no pixel tells them apart."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    phase, level = torch.rand(count, 1, 1, generator=draw) * 2 * math.pi, torch.randn(count, 1, 1, generator=draw)
    along = torch.arange(size) * 2.0
    waves = torch.sin(along[None, :, None] + phase).expand(-1, -1, size)
    images = torch.where(labels[:, None, None] == 0, waves, waves.transpose(1, 2)) + level
    return ImageTensors((images + 0.3 * torch.randn(images.shape, generator=draw))[:, None].repeat(1, 3, 1, 1), labels)


def test_few_images_alone_teach_it_what_no_pixel_tells():
    toy = replace(
        task(), labels=("rows", "columns"), train=stripes(40, 0), validation=stripes(40, 1), test=stripes(100, 2),
        retain=None,
    )  # fmt: skip
    found = Attacker(no_model(toy), toy, QUICK).run(NAME, 10, 0)
    assert found.accuracy > 0.9 and (found.effort, found.curve) == (None, ())


def test_one_run_serves_every_model(monkeypatch, tmp_path):
    """It reads nothing of a model: trained once for all of them, and found again for another one."""
    seeds, usual = [], FreshNetwork._trained
    monkeypatch.setattr(FreshNetwork, "_trained", lambda *a: seeds.append(a[-1]) or usual(*a))
    toy = replace(task(), retain=None)
    config = replace(QUICK, attacks=(NAME,), budgets=(4,), seeds=(0, 1))
    models = {
        "undisposed": vit(),
        "scrubbed": resnet(),
        "no_model": no_model(toy),
        "scratch": [vit(seed=1), vit(seed=2)],
    }
    store = tmp_path / "attacks.jsonl"
    records = run_audit(models, {"source": toy}, config, store=store, progress=False)
    assert sorted(seeds) == [0, 1]
    reached = {role: [r.accuracy for r in records if r.model == role] for role in models}
    assert len({tuple(own) for own in reached.values()}) == 1 and len(reached["scratch"]) == 2
    run_audit({"scrubbed": vit(seed=3)}, {"source": toy}, config, store=store, progress=False)
    assert sorted(seeds) == [0, 1]


@pytest.mark.parametrize("name", [NAME, "network_framed"])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (64, 64)])
def test_images_of_any_size_will_do(size, name, monkeypatch):
    monkeypatch.setattr("hf_dtl.audit.attacks.fresh_network.BATCH", 2)
    toy = task()
    splits = {
        name: ImageTensors(torch.nn.functional.interpolate(own.pixel_values, size), own.labels)
        for name, own in (("train", toy.train), ("validation", toy.validation), ("test", toy.test))
    }
    toy = replace(toy, **splits, retain=None)
    assert 0 <= Attacker(no_model(toy), toy, QUICK).run(name, 2, 0).accuracy <= 1


def test_the_random_state_stays_as_it_was():
    toy, state = task(), torch.get_rng_state()
    Attacker(no_model(toy), toy, QUICK).run(NAME, 2, 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert sum(p.numel() for p in small_network(3, 4).parameters()) < 50_000
