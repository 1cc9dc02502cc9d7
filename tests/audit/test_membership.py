import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from audit_toys import vit
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from hf_dtl.audit.membership import MembershipResult, judge, membership_inference
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, DataError, ModelError

CLASSES = 4
NOISE_BOUND = 3
"""Standard deviations of a guesser's AUC (`auc_noise`, the Mann-Whitney one) that a model without leak may show."""


def images(count, seed, classes=CLASSES):
    """Images and labels of pure noise: only memory can tell one draw from another."""
    generator = torch.Generator().manual_seed(seed)
    pixel_values = torch.randn(count, 1, 4, 4, generator=generator)
    return ImageTensors(pixel_values, torch.arange(count) % classes)


FORGET, RETAIN, HELD_OUT = images(120, 0), images(120, 1), images(240, 2)


def memorise(*parts, seed=0, steps=150):
    """A small network trained until it knows every one of its images by heart."""
    torch.manual_seed(seed)
    x = torch.cat([part.pixel_values for part in parts])
    y = torch.cat([part.labels for part in parts])
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def undisposed():
    return memorise(RETAIN, FORGET)


@pytest.fixture(scope="module")
def retrained():
    return memorise(RETAIN)


def by_kind(results):
    return {(result.attack, result.calibration): result for result in results}


def test_a_model_that_memorised_is_found_out_by_every_attack(undisposed):
    results = by_kind(membership_inference(undisposed, FORGET, HELD_OUT, retain=RETAIN))
    assert set(results) == {(a, c) for a in ("loss", "confidence") for c in ("cross_validation", "retain")}
    for result in results.values():
        assert result.auc > 0.5 + 5 * result.auc_noise
        assert result.forget_member_rate > result.held_out_member_rate
    loss = results["loss", "retain"]
    assert loss.forget_member_rate > 0.95
    assert loss.balanced_accuracy > 0.8  # a quarter of the unseen images is answered right by chance
    assert loss.tpr_at_1_percent_fpr is not None


def test_a_model_that_never_saw_the_forget_images_is_not(retrained):
    """Two-sided where the attacker learned elsewhere; cross-validated noise falls below one half, never far above."""
    for result in membership_inference(retrained, FORGET, HELD_OUT, retain=RETAIN):
        assert result.auc < 0.5 + NOISE_BOUND * result.auc_noise
        if result.calibration == "retain":
            assert result.auc > 0.5 - NOISE_BOUND * result.auc_noise
            # The rates are two binomial shares of 120 images each.
            assert abs(result.forget_member_rate - result.held_out_member_rate) < NOISE_BOUND * (2 * 0.25 / 120) ** 0.5


def test_an_undistinguished_attacker_guesses_with_the_stated_noise():
    generator = np.random.default_rng(0)
    aucs = [judge(*generator.normal(size=(2, 60)), "m", "loss", "retain").auc for _ in range(200)]
    noise = judge(*generator.normal(size=(2, 60)), "m", "loss", "retain").auc_noise
    assert np.mean(aucs) == pytest.approx(0.5, abs=4 * noise / 200**0.5)
    assert np.std(aucs) == pytest.approx(noise, rel=0.15)


def test_forget_images_that_were_damaged_stand_out_too(retrained):
    """Over-forgetting: worse answers than on unseen images. The attacker who knows members takes them for strangers,
    the one who learns from forget images finds them."""
    damaged = {row.numpy().tobytes(): label for row, label in zip(FORGET.pixel_values, FORGET.labels, strict=True)}

    def model(pixel_values):
        logits = retrained(pixel_values)
        for own, row in zip(logits, pixel_values, strict=True):
            if row.numpy().tobytes() in damaged:
                own[damaged[row.numpy().tobytes()]] -= 20
        return logits

    results = by_kind(membership_inference(model, FORGET, HELD_OUT, retain=RETAIN, attacks=("loss",)))
    known, direct = results["loss", "retain"], results["loss", "cross_validation"]
    assert known.auc < 0.5 - 5 * known.auc_noise
    assert known.forget_member_rate < known.held_out_member_rate
    assert direct.auc > 0.5 + 5 * direct.auc_noise


def test_the_loss_attack_ranks_by_the_loss_and_confidence_needs_no_label(undisposed):
    result = membership_inference(undisposed, FORGET, HELD_OUT, attacks=("loss",))
    assert [(r.attack, r.calibration) for r in result] == [("loss", "cross_validation")]
    half = by_kind(membership_inference(undisposed, FORGET, HELD_OUT, retain=RETAIN, retain_held_out=images(60, 5)))
    losses = [
        F.cross_entropy(undisposed(part.pixel_values), part.labels, reduction="none") for part in (FORGET, HELD_OUT)
    ]
    truth = [1] * 120 + [0] * 240
    assert half["loss", "retain"].auc == pytest.approx(roc_auc_score(truth, -torch.cat(losses).detach()), abs=1e-3)
    assert result[0].auc == pytest.approx(half["loss", "retain"].auc, abs=0.02)
    assert half["loss", "retain"].held_out_images == 240  # nothing of it was spent on calibration

    other = [ImageTensors(part.pixel_values, torch.zeros_like(part.labels) + 99) for part in (FORGET, HELD_OUT)]
    expected = membership_inference(undisposed, FORGET, HELD_OUT, attacks=("confidence",))
    assert membership_inference(undisposed, *other, attacks=("confidence",)) == expected


def test_results_are_repeatable_survive_json_and_do_not_depend_on_the_batch(undisposed):
    first = membership_inference(undisposed, FORGET, HELD_OUT, retain=RETAIN, name="undisposed")
    assert first == membership_inference(undisposed, FORGET, HELD_OUT, retain=RETAIN, name="undisposed")
    assert [MembershipResult(**json.loads(json.dumps(asdict(result)))) for result in first] == first
    assert {result.model for result in first} == {"undisposed"}
    for a, b in zip(
        first, membership_inference(undisposed, FORGET, HELD_OUT, retain=RETAIN, batch_size=7), strict=True
    ):
        assert a.auc == pytest.approx(b.auc, abs=1e-3)
    assert undisposed.training


def test_a_hub_model_and_its_copy_with_shifted_logits_agree():
    model = vit(num_labels=CLASSES)
    parts = [ImageTensors(torch.randn(60, 3, 8, 8), torch.arange(60) % CLASSES) for _ in range(2)]
    plain = membership_inference(model, *parts)
    shifted = membership_inference(lambda x: model(pixel_values=x).logits + 5, *parts)
    for a, b in zip(plain, shifted, strict=True):
        assert a.auc == pytest.approx(b.auc, abs=1e-2)


def test_only_held_out_images_of_forget_classes_are_judged(undisposed):
    """Class removal: forget images are of class 0, retain images of the others, held-out images of all."""
    zero = FORGET.subset(torch.nonzero(FORGET.labels == 0).flatten())
    others = RETAIN.subset(torch.nonzero(RETAIN.labels != 0).flatten())
    alone = membership_inference(undisposed, zero, HELD_OUT)
    selected = membership_inference(undisposed, zero, HELD_OUT.subset(torch.nonzero(HELD_OUT.labels == 0).flatten()))
    assert alone == selected
    result = by_kind(membership_inference(undisposed, zero, HELD_OUT, retain=others))["loss", "retain"]
    assert (result.forget_images, result.held_out_images) == (30, 60)  # all 60: retain calibrates on other classes
    assert result.tpr_at_1_percent_fpr is None
    assert result.auc > 0.9


def test_judge_by_hand():
    forget = np.array([3.0, 2.0, 1.0, -1.0])
    held_out = np.concatenate([[2.5], np.linspace(-2, -1.5, 99)])
    result = judge(forget, held_out, "scrubbed", "loss", "retain")
    assert result.auc == pytest.approx((100 + 99 + 99 + 99) / 400)
    assert (result.forget_member_rate, result.held_out_member_rate) == (0.75, 0.01)
    assert result.balanced_accuracy == pytest.approx((0.75 + 0.99) / 2)
    assert result.tpr_at_1_percent_fpr == 1.0  # one false positive in a hundred is allowed
    assert judge(forget, held_out[:-1], "scrubbed", "loss", "retain").tpr_at_1_percent_fpr is None
    folded = judge(
        forget, held_out, "scrubbed", "loss", "cross_validation", folds=[np.r_[0, 4:54], np.r_[1:4, 54:104]]
    )
    assert folded.auc == pytest.approx((1 + 1) / 2)  # the first fold holds 3.0 and 2.5, the second the rest
    strict = judge(forget, np.append(held_out[:-1], 2.6), "scrubbed", "loss", "retain")
    assert strict.tpr_at_1_percent_fpr == 0.25


def model_of(*logits):
    return lambda pixel_values: torch.tensor(logits).expand(len(pixel_values), -1)


SMALL, NOTHING = images(9, 0, classes=1), images(0, 0)
OTHER_CLASS = ImageTensors(HELD_OUT.pixel_values, HELD_OUT.labels % 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: membership_inference(m, NOTHING, HELD_OUT), DataError, "no forget images"),
        (lambda m: membership_inference(m, FORGET, NOTHING), DataError, "no held_out images"),
        (lambda m: membership_inference(m, FORGET, HELD_OUT, retain=NOTHING), DataError, "no retain images"),
        (lambda m: membership_inference(m, SMALL, HELD_OUT), DataError, "9 forget images"),
        (lambda m: membership_inference(m, FORGET, images(12, 3), retain=RETAIN), DataError, "6 held_out|8 held_out"),
        (lambda m: membership_inference(m, FORGET, OTHER_CLASS), DataError, r"classes \[3\] too"),
        (lambda m: membership_inference(m, FORGET, HELD_OUT, attacks=()), ConfigError, "Unknown attacks none"),
        (lambda m: membership_inference(m, FORGET, HELD_OUT, attacks=("lira",)), ConfigError, "'lira'"),
        (lambda m: membership_inference(m, FORGET, HELD_OUT, retain_held_out=RETAIN), ConfigError, "both or neither"),
        (lambda m: membership_inference(model_of(0.0, float("nan")), FORGET, HELD_OUT), ModelError, "not finite"),
        (lambda m: membership_inference(model_of(0.0), FORGET, HELD_OUT), ModelError, r"\(120, 1\)"),
        (lambda m: membership_inference(model_of(0.0, 1.0), FORGET, HELD_OUT), DataError, "label 3.*0..1"),
        (
            lambda m: membership_inference(m, ImageTensors(FORGET.pixel_values, FORGET.labels[:-1]), HELD_OUT),
            DataError,
            "120 forget images but 119 labels",
        ),
    ],
)
def test_what_cannot_be_attacked_is_refused(call, error, message, undisposed):
    with pytest.raises(error, match=message):
        call(undisposed)
