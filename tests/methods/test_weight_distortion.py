import pytest
import torch
from method_checks import assert_resumes, assert_split_does_not_matter, assert_trains, build, trained
from torch.nn.utils import parameters_to_vector
from toy_tasks import two_headed

from hf_dtl.errors import ConfigError
from hf_dtl.methods.weight_distortion import (
    WeightDistanceRegularisationConfig,
    WeightDistanceRegularisationTrainer,
    WeightDistortionConfig,
    WeightDistortionTrainer,
)

DISTORT = (WeightDistortionConfig, WeightDistortionTrainer)
PUSH = (WeightDistanceRegularisationConfig, WeightDistanceRegularisationTrainer)


def distance(trainer):
    """Of the trained weights from the given ones, relative to these."""
    pairs = list(zip(trainer.model.parameters(), trainer.teacher.parameters(), strict=True))
    mine, theirs = (parameters_to_vector([p[i] for p in pairs if p[0].requires_grad]) for i in (0, 1))
    return ((mine - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize(("pair", "name"), [(DISTORT, "resnet"), (PUSH, "resnet"), (PUSH, "swin"), (PUSH, "dinov2")])
def test_architectures_train(tmp_path, pair, name):
    _, logs = assert_trains(pair, tmp_path, name, max_steps=2, learning_rate=1e-3)
    wanted = {"disposal_value", "weight_distance", "source_loss"} if pair is PUSH else set()
    assert all(wanted <= entry.keys() for entry in logs)


@pytest.mark.parametrize(("pair", "name"), [(DISTORT, "vit"), (PUSH, "vit"), (PUSH, "resnet")])
def test_result_does_not_depend_on_the_split_and_resumes(tmp_path, pair, name):
    assert_split_does_not_matter(pair, tmp_path, name)
    assert_resumes(pair, tmp_path, name)


def test_noise_is_seeded_and_has_its_size(tmp_path):
    a, b, other = (build(DISTORT, tmp_path, sigma=0.3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(parameters_to_vector(a.model.parameters()), parameters_to_vector(b.model.parameters()))
    assert not torch.equal(parameters_to_vector(a.model.parameters()), parameters_to_vector(other.model.parameters()))
    name = "vit.embeddings.patch_embeddings.projection.weight"
    mine, theirs = (m.backbone.get_parameter(name) for m in (a.model, a.teacher))
    assert (mine - theirs).std().item() == pytest.approx(0.3 * theirs.square().mean().sqrt().item(), rel=0.05)
    absolute = build(DISTORT, tmp_path, sigma=0.02, noise_scale="absolute")
    pairs = zip(absolute.model.backbone.parameters(), absolute.teacher.backbone.parameters(), strict=True)
    added = torch.cat([(m - t).ravel() for m, t in pairs])
    assert added.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_push_drives_the_weights_away_up_to_its_limit(tmp_path):
    """Gradient descent at rate r moves the weights by r |theta_0|^-1 a step; the unit is the distance itself."""
    near = trained(PUSH, tmp_path, forget_weight=1e-6, max_steps=1)
    assert distance(near) == pytest.approx(1e-3, rel=0.3), "the noise at the start"
    options = dict(max_forget_grad_norm=0.0, learning_rate=0.02, max_grad_norm=0.0, max_steps=15)
    t = trained(PUSH, tmp_path, forget_weight=50.0, max_distance=0.05, **options)
    logs = [e for e in t.state.log_history if "weight_distance" in e]
    distances = [e["weight_distance"] for e in logs]
    assert distances[0] == pytest.approx(1e-3, rel=0.1) and distances[1] > 3 * distances[0]
    assert max(distances) > 0.05, "it got there"
    beyond = [e for e in logs if e["weight_distance"] > 0.05]
    assert all(e["disposal_grad_norm"] == 0 and e["disposal_value"] == pytest.approx(-0.05) for e in beyond)
    assert all(e["disposal_value"] == pytest.approx(-e["weight_distance"]) for e in logs if e not in beyond)


def test_forget_images_change_nothing_but_the_log(tmp_path):
    random, classes = (trained(PUSH, tmp_path, chunking=c) for c in ("random", "class"))
    assert torch.equal(
        parameters_to_vector(random.model.parameters()), parameters_to_vector(classes.model.parameters())
    )


def test_bf16(tmp_path):
    t = trained(PUSH, tmp_path, model=two_headed("resnet"), bf16=True, max_steps=2)
    assert all(torch.isfinite(p).all() and p.dtype == torch.float32 for p in t.model.parameters())


@pytest.mark.parametrize(
    ("pair", "options", "message"),
    [
        (DISTORT, {"sigma": -0.1}, "sigma=-0.1 must be >= 0"),
        (DISTORT, {"noise_scale": "huge"}, "noise_scale='huge' is unknown"),
        (PUSH, {"max_distance": 0.0}, "max_distance=0.0 must be > 0"),
        (PUSH, {"start_noise": 0.0}, "start_noise=0.0 must be > 0"),
    ],
)
def test_bad_options(tmp_path, pair, options, message):
    with pytest.raises(ConfigError, match=message):
        build(pair, tmp_path, **options)
