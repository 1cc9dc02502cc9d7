import pytest
import torch
from method_checks import assert_resumes, assert_split_does_not_matter, build, trained
from toy_tasks import source, two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.functional import probe_generalisation
from hf_dtl.methods import RepresentationErasureConfig, RepresentationErasureTrainer
from hf_dtl.trainers.probes import read

PAIR = (RepresentationErasureConfig, RepresentationErasureTrainer)


def told(model):
    """How well closed-form probes generalise at each depth, over all toy images."""
    images = source()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        readings = read(*model.eval().hidden_states(images.pixel_values[order]))
    return probe_generalisation(readings, images.labels[order], 6)


@pytest.mark.parametrize("name", ["vit", "resnet", "swin", "convnext"])
def test_probes_of_every_depth_generalise_less(name, tmp_path):
    before = told(two_headed(name))
    options = dict(alpha=0.0, optim="adamw_torch", learning_rate=3e-3, per_device_train_batch_size=60, max_steps=25)
    trainer = trained(PAIR, tmp_path, model=two_headed(name), **options)
    after = told(trainer.model)
    assert after.mean() < 0.6 * before.mean()
    assert after[-1] < before[-1]


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_same_result_however_the_step_is_split(name, tmp_path):
    assert_split_does_not_matter(PAIR, tmp_path, name, num_chunks=4, alpha=0.5)


def test_resumes_exactly(tmp_path):
    assert_resumes(PAIR, tmp_path)


def test_weights_start_between_the_given_and_random_ones(tmp_path):
    model = two_headed()
    given = model.backbone.vit.embeddings.position_embeddings.detach().clone()
    trainer = build(PAIR, tmp_path, model=model, alpha=0.25)
    start = trainer.model.backbone.vit.embeddings.position_embeddings
    kept = torch.equal(trainer.teacher.backbone.vit.embeddings.position_embeddings, given)
    assert kept and not torch.equal(start, given)
    assert build(PAIR, tmp_path, alpha=0.0).model.backbone.vit.embeddings.position_embeddings.equal(given)


def test_logs_the_value_and_the_frozen_heads_loss(tmp_path):
    log = trained(PAIR, tmp_path).state.log_history[0]
    assert {"disposal_value", "disposal_grad_norm", "source_loss", "retain_loss"} <= log.keys()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"alpha": -0.1}, "alpha=-0.1"),
        ({"alpha": 1.5}, "alpha=1.5"),
        ({"ridge": 0.0}, "ridge=0.0"),
        ({"per_device_train_batch_size": 4}, "chunk of 4 images"),
        ({"num_chunks": 4}, "lower num_chunks"),
    ],
)
def test_bad_options_are_refused(options, told, tmp_path):
    with pytest.raises(ConfigError, match=told):
        build(PAIR, tmp_path, **options)
