"""What will make numbers say little is told before the first attack, by name, with what can still be run."""

import logging
from dataclasses import replace

import pytest
import torch
from audit_toys import QUICK, split, task, vit

from hf_dtl.audit import no_model, run_audit
from hf_dtl.audit import run as run_module
from hf_dtl.audit.suites import SUITES


class Stop(Exception):
    pass


@pytest.fixture
def told(monkeypatch, caplog):
    """The warnings before the first attack."""

    def stop(*given):
        raise Stop

    monkeypatch.setattr(run_module, "_run", stop)

    def audit(models, toy, config=QUICK):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="hf_dtl"), pytest.raises(Stop):
            run_audit(models, {"source": toy}, config, progress=False)
        return [record.getMessage() for record in caplog.records]

    return audit


def test_nothing_is_told_of_a_sound_audit(told):
    assert told({"scrubbed": vit(), "no_model": no_model(task())}, task()) == []


def test_a_model_that_gives_the_same_features_for_every_image(told):
    model = vit()
    with torch.no_grad():
        model.vit.layernorm.weight.zero_()
    frozen = replace(QUICK, attacks=("linear_probe", "full"))
    assert told({"undisposed": vit(), "scrubbed": model}, task(), frozen) == [
        "The scrubbed model gives the same features for every image of toy. Only the attacks that train the network "
        "can relearn: full."
    ]
    assert told({"scrubbed": model}, task(), replace(QUICK, attacks=("ridge",)))[0].endswith(
        "none of those asked for."
    )


def test_classes_that_nobody_tells_apart_without_weights(told):
    toy = task()
    shuffled = {name: replace_labels(getattr(toy, name)) for name in ("train", "validation")}
    toy = replace(toy, **shuffled, retain=split(4, classes=4))
    (doubt,) = told({"scrubbed": vit(4), "no_model": no_model(toy)}, toy)
    assert doubt.startswith("Without weights 4 images a class of toy teach nothing (0.")
    assert doubt.endswith("Leakage is measured over the others: scratch, base, retrained.")


def replace_labels(images):
    """Labels that have nothing to do with the images."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1))
    return type(images)(images.pixel_values, images.labels[order])


def test_fewer_images_than_a_suite_wants(told):
    config = SUITES["quick-1"].config(1000)
    toy = replace(task(), train=split(20))
    (doubt,) = told({"scrubbed": vit()}, toy, config)
    assert doubt.startswith(
        "quick-1 wants 500 validation and 500 test images; toy has 30 validation and 60 test images."
    )
