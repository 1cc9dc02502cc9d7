import json
from dataclasses import asdict

import pytest
import torch
from scipy.stats import norm
from torch import nn
from torch.nn import functional as F

from hf_dtl.audit.shadow_models import logit_scaled_confidence, shadow_splits, u_lira, u_lira_scores
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, DataError, ModelError

CLASSES, COUNT, SHADOWS = 4, 80, 16


@pytest.mark.parametrize(("count", "shadows"), [(1, 4), (50, 6), (1000, 16)])
def test_every_image_is_in_half_of_the_shadow_models(count, shadows):
    members = shadow_splits(count, shadows, seed=3)
    assert members.shape == (shadows, count)
    assert (members.sum(0) == shadows // 2).all()
    assert torch.equal(members, shadow_splits(count, shadows, seed=3))
    if count == 1000:  # every model has about half of the images: 5 standard deviations of a binomial share
        assert ((members.double().mean(1) - 0.5).abs() < 5 * 0.5 / count**0.5).all()
        assert not torch.equal(members, shadow_splits(count, shadows, seed=4))


def test_logit_scaled_confidence_is_the_logit_of_the_probability():
    torch.manual_seed(0)
    logits, labels = torch.randn(50, 5, dtype=torch.float64), torch.arange(50) % 5
    p = logits.softmax(-1)[torch.arange(50), labels]
    torch.testing.assert_close(logit_scaled_confidence(logits, labels), torch.logit(p), rtol=1e-12, atol=1e-12)
    assert logit_scaled_confidence(torch.tensor([[900.0, 0.0]]), torch.tensor([0])).item() == 900


def gaussians(shadows, images, seed=0):
    """Confidences drawn from known normal distributions: means by image and side, one deviation a side."""
    generator = torch.Generator().manual_seed(seed)
    mean = {True: 2 + torch.randn(images, generator=generator), False: torch.randn(images, generator=generator)}
    deviation = {True: 0.7, False: 1.1}
    members = shadow_splits(images, shadows, seed)
    noise = torch.randn(shadows, images, generator=generator)
    values = torch.where(members, mean[True] + deviation[True] * noise, mean[False] + deviation[False] * noise)
    observed = 1 + 2 * torch.randn(images, generator=generator)
    ratio = norm(mean[True], deviation[True]).logpdf(observed) - norm(mean[False], deviation[False]).logpdf(observed)
    return observed, values, members, torch.as_tensor(ratio)


@pytest.mark.parametrize("variance", ["image", "global", "auto"])
def test_many_shadow_models_give_the_analytic_likelihood_ratio(variance):
    observed, values, members, ratio = gaussians(20_000, 6)
    scores = u_lira_scores(observed, values, members, variance)
    torch.testing.assert_close(scores, ratio, rtol=0.05, atol=0.05)


def test_few_shadow_models_need_the_variance_over_all_images():
    observed, values, members, ratio = gaussians(8, 2000)
    error = {v: (u_lira_scores(observed, values, members, v) - ratio).abs().median() for v in ("global", "image")}
    assert error["global"] < error["image"] / 2
    assert torch.equal(u_lira_scores(observed, values, members), u_lira_scores(observed, values, members, "global"))
    many = gaussians(64, 5)[:3]
    assert torch.equal(u_lira_scores(*many), u_lira_scores(*many, "image"))


def test_scores_against_scipy_with_unequal_numbers_of_shadow_models():
    torch.manual_seed(0)
    members = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [0, 0, 1], [0, 0, 1]]).bool()
    values = torch.randn(7, 3)
    observed = torch.randn(3)
    scores = u_lira_scores(observed, values, members, "image")
    for i in range(3):
        fits = [
            norm(v.mean(), v.std()) for v in (values[members[:, i], i].double(), values[~members[:, i], i].double())
        ]
        assert scores[i].item() == pytest.approx(fits[0].logpdf(observed[i]) - fits[1].logpdf(observed[i]))


def test_scores_do_not_depend_on_order_unit_or_sides():
    observed, values, members, _ = gaussians(12, 30)
    scores = u_lira_scores(observed, values, members)
    order = torch.randperm(12)
    torch.testing.assert_close(u_lira_scores(observed, values[order], members[order]), scores)
    torch.testing.assert_close(u_lira_scores(3 * observed + 1, 3 * values + 1, members), scores, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(u_lira_scores(observed, values, ~members), -scores)


torch.manual_seed(7)
IMAGES = ImageTensors(torch.randn(COUNT, 1, 4, 4), torch.arange(COUNT) % CLASSES)
RETAIN = ImageTensors(torch.randn(COUNT, 1, 4, 4), torch.arange(COUNT) % CLASSES)
SPLITS = shadow_splits(COUNT, SHADOWS + 2, seed=0)  # two more than needed: two models are attacked


def train(model, parts, steps):
    x, y = (torch.cat([getattr(part, name) for part in parts]) for name in ("pixel_values", "labels"))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def unlearned(mask, seed, *, honest):
    """A network that memorised retain images and its members, then unlearned: by a few steps on retain images alone,
    or honestly, by training anew."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 96), nn.ReLU(), nn.Linear(96, CLASSES))
    if not honest:
        train(model, [RETAIN, IMAGES.subset(torch.nonzero(mask).flatten())], 80)
    train(model, [RETAIN], 10 if not honest else 80)
    return model.eval()


def attack(*, honest):
    """Attack the first model of the split with the others as shadow models, loaded one at a time."""
    shadows = ((unlearned(SPLITS[s], s, honest=honest), SPLITS[s]) for s in range(2, SHADOWS + 2))
    return u_lira(unlearned(SPLITS[0], 0, honest=honest), IMAGES, SPLITS[0], shadows)


def test_shadow_models_find_what_a_weak_removal_left_and_nothing_after_retraining():
    left, none = attack(honest=False), attack(honest=True)
    assert left.auc > 0.5 + 4 * left.auc_noise
    assert left.forget_member_rate > left.held_out_member_rate
    assert abs(none.auc - 0.5) < 3 * none.auc_noise
    assert (left.attack, left.calibration, left.shadow_models) == ("u_lira", "shadow_models", SHADOWS)
    assert left.forget_images + left.held_out_images == COUNT
    assert json.loads(json.dumps(asdict(left)))["auc"] == left.auc


def answers(seed=0):
    """A classifier with fixed random logits for `IMAGES`."""
    logits = torch.randn(COUNT, CLASSES, generator=torch.Generator().manual_seed(seed))
    return lambda pixel_values: logits


PAIRS = [(answers(s), SPLITS[s]) for s in range(SHADOWS)]
ONE = torch.tensor([0.0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: shadow_splits(10, 5), ConfigError, "5 shadow models"),
        (lambda: shadow_splits(10, 2), ConfigError, "even number from 4"),
        (lambda: shadow_splits(0, 4), ConfigError, "0 images"),
        (lambda: u_lira_scores(ONE, torch.zeros(4, 1), SPLITS[:4, :1], "own"), ConfigError, "variance='own'"),
        (lambda: u_lira_scores(ONE, torch.zeros(4, 2), SPLITS[:4, :2]), DataError, r"\(1,\), \(4, 2\)"),
        (lambda: u_lira_scores(ONE, torch.zeros(4, 1), torch.zeros(4, 1)), DataError, "torch.float32"),
        (lambda: u_lira_scores(ONE / 0, torch.randn(4, 1), SPLITS[:4, :1]), DataError, "not finite"),
        (
            lambda: u_lira_scores(torch.zeros(2), torch.randn(3, 2), torch.tensor([[1, 1], [1, 0], [0, 0]]).bool()),
            DataError,
            "Image 1 has 1 shadow models",
        ),
        (
            lambda: u_lira_scores(ONE, torch.ones(4, 1), torch.tensor([[1], [1], [0], [0]]).bool()),
            DataError,
            "answer alike",
        ),
        (lambda: u_lira(answers(), IMAGES, SPLITS[0], PAIRS[:3]), DataError, "at least 4 shadow models, got 3"),
        (lambda: u_lira(answers(), IMAGES, SPLITS[0, :-1], PAIRS), DataError, r"members must be .* \(80,\)"),
        (lambda: u_lira(answers(), IMAGES, SPLITS[0], [(answers(), SPLITS[0].long())]), DataError, "shadow model 0"),
        (lambda: u_lira(answers(), IMAGES, torch.arange(COUNT) < 9, PAIRS), DataError, "got 9 and 71"),
        (lambda: u_lira(answers(), IMAGES.subset([]), SPLITS[0, :0], PAIRS), DataError, "no attacked images"),
        (lambda: u_lira(lambda x: answers()(x) / 0, IMAGES, SPLITS[0], PAIRS), ModelError, "not finite"),
        (lambda: u_lira(lambda x: answers()(x)[:, :2], IMAGES, SPLITS[0], PAIRS), DataError, "label 3"),
    ],
)
def test_what_cannot_be_attacked_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
