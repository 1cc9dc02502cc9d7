"""Membership inference: can an attacker tell forget images from images that the model never saw?

These are population attacks: one attacker for every image. Hayes et al. (arXiv 2403.01218) show that attackers fitted
to each image find more, so a low number here is no proof; `hf_dtl.audit.u_lira` is the stronger and dearer test.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn import functional as F

from hf_dtl.audit.classifiers import Classifier, LabelledImages, finite, predict
from hf_dtl.errors import ConfigError, DataError, ModelError

MembershipAttack = Literal["loss", "confidence"]
Calibration = Literal["retain", "cross_validation", "shadow_models"]
Array = NDArray[np.float64]
Positions = NDArray[np.int64]

FOLDS = 5
SMALLEST_GROUP = 10
FALSE_POSITIVE_RATE = 0.01
TOP = 3
"""Number of largest probabilities that the confidence attack reads."""


@dataclass(frozen=True)
class MembershipResult:
    """What one attack found about one model; every field is a plain number or text, ready for JSON.

    Read every number beside the same number of the `retrained` model: that one never saw the forget images, and an
    honest removal equals it. Far from it in EITHER direction the forget images stand out.

    Args:
        model: name of the attacked model, such as scrubbed or retrained.
        attack: `loss`, `confidence` or `u_lira`.
        calibration: what the attacker learned the decision from. `retain`: images known to be members and images
            known not to be; `cross_validation`: other forget and held-out images; `shadow_models`.
        auc: probability that a forget image scores above a held-out image, 0.5 being chance. Well below 0.5 after the
            calibration `retain` means that the forget images were damaged and stand out that way; after
            `cross_validation`, where it is the mean over the folds, it means chance.
        auc_noise: standard deviation of the AUC of an attacker who guesses, sqrt((m + n + folds) / 12mn), folds being
            1 without cross-validation.
        balanced_accuracy: mean of the share of forget images called members and of held-out images called not.
        tpr_at_1_percent_fpr: share of forget images found while at most 1 % of the held-out images are called members;
            None when there are fewer than 100 held-out images, too few to see 1 %. After `cross_validation` the
            folds are ranked together, so it is rather too low.
        forget_member_rate: share of forget images called members. The "MIA efficacy" of SalUn (arXiv 2310.12508) is
            one minus this number.
        held_out_member_rate: share of held-out images called members, without which the rate above says nothing.
        forget_images, held_out_images: m and n, images that were judged.
        shadow_models: number of shadow models; None for attacks without them.
    """

    model: str
    attack: str
    calibration: Calibration
    auc: float
    auc_noise: float
    balanced_accuracy: float
    tpr_at_1_percent_fpr: float | None
    forget_member_rate: float
    held_out_member_rate: float
    forget_images: int
    held_out_images: int
    shadow_models: int | None = None


def membership_inference(
    model: Classifier,
    forget: LabelledImages,
    held_out: LabelledImages,
    *,
    retain: LabelledImages | None = None,
    retain_held_out: LabelledImages | None = None,
    attacks: Sequence[MembershipAttack] = ("loss", "confidence"),
    name: str = "scrubbed",
    seed: int = 0,
    batch_size: int = 256,
) -> list[MembershipResult]:
    """Attack a model's answers to tell forget images from images never seen.

    The attacker is a logistic regression on what the model answers: `loss`, the cross-entropy of the label, or
    `confidence`, the entropy and the three largest probabilities, which needs no label. It is calibrated two ways:
    by `cross_validation`, where it learns from other forget images and so finds a difference in either direction, and,
    when `retain` is given, by members (retain images) and non-members that are never judged.

    A forget image and a held-out image must differ in nothing but having been seen. Held-out images of classes that
    the forget images lack are therefore not judged, and the shares of the classes should be alike: otherwise the
    attack measures the class. The attack `loss` needs labels that are those of the model's head: for a removed task
    whose head is gone, use `attacks=("confidence",)`.

    Args:
        model: a Hub classifier, or a function from (batch, channels, height, width) to logits (batch, classes).
        forget: images that were trained on and unlearned.
        held_out: images never seen, of the same classes as the forget images (and as the retain images, unless
            `retain_held_out` is given), drawn like them. At least 10 are judged; 100 show the rate at 1 %.
        retain: images trained on and retained; as many are drawn as there are non-members to calibrate with.
        retain_held_out: images never seen, drawn like the retain images. None: those of `held_out` that are of a
            retain class; where a class is also a forget class, half of its images calibrate and the others are judged.
        attacks: `loss`, `confidence` or both.
        name: name of the model in the results.
        seed: of every draw and of the folds.
        batch_size: images a forward pass.

    Returns:
        For each attack the result by `cross_validation`, and, with `retain`, the result by `retain`.

    Raises:
        ConfigError: an unknown attack, none, or `retain_held_out` without `retain`.
        DataError: an empty or too small group, a class that is not held out, or labels outside the model's head.
        ModelError: logits that are not finite or not (images, at least 2 classes).

    Source:
        loss: Yeom et al., arXiv 1709.01604; three largest probabilities: Salem et al., ML-Leaks, arXiv 1806.01246;
        entropy: Song and Mittal, arXiv 2003.10595; their use on forget images: population U-MIA of Hayes et al., arXiv
        2403.01218. The choice of groups is this project's.
    """
    unknown = [attack for attack in attacks if attack not in get_args(MembershipAttack)]
    if unknown or not attacks:
        raise ConfigError(f"Unknown attacks {unknown or 'none'}; choose of {', '.join(get_args(MembershipAttack))}.")
    if retain_held_out is not None and retain is None:
        raise ConfigError("retain_held_out calibrates the attack together with retain; give both or neither.")
    given = {"forget": forget, "held_out": held_out, "retain": retain, "retain_held_out": retain_held_out}
    for title, images in given.items():
        if images is not None:
            check_images(title, images)
    judged, spared = _split_held_out(forget, held_out, retain if retain_held_out is None else None, seed)
    groups = {"forget": (forget, torch.arange(len(forget.labels))), "held_out": (held_out, judged)}
    if retain is not None:
        groups["retain_held_out"] = (held_out, spared)
        if retain_held_out is not None:
            groups["retain_held_out"] = (retain_held_out, torch.arange(len(retain_held_out.labels)))
        wanted = len(groups["retain_held_out"][1])
        drawn = torch.randperm(len(retain.labels), generator=torch.Generator().manual_seed(seed))[:wanted]
        groups["retain"] = (retain, drawn)
    for title, (_, rows) in groups.items():
        if len(rows) < SMALLEST_GROUP:
            raise DataError(
                f"Membership inference needs {SMALLEST_GROUP} images in every group; {len(rows)} {title} images are "
                "left of the classes that are compared. Give more images, and held-out ones of the same classes."
            )

    answers = {
        title: (logits_of(model, images.pixel_values[rows], batch_size), images.labels[rows].cpu())
        for title, (images, rows) in groups.items()
    }
    results = []
    for attack in attacks:
        features = {title: _features(attack, title, *answer) for title, answer in answers.items()}
        scores, folds = _cross_validated(features["forget"], features["held_out"], seed)
        m = len(features["forget"])
        results.append(judge(scores[:m], scores[m:], name, attack, "cross_validation", folds=folds))
        if retain is not None:
            attacker = _attacker().fit(*_labelled(features["retain"], features["retain_held_out"]))
            own, other = (attacker.decision_function(features[title]) for title in ("forget", "held_out"))
            results.append(judge(own, other, name, attack, "retain"))
    return results


def judge(
    forget_scores: Array,
    held_out_scores: Array,
    model: str,
    attack: str,
    calibration: Calibration,
    *,
    folds: Sequence[Positions] | None = None,
    shadow_models: int | None = None,
) -> MembershipResult:
    """Turn an attacker's scores into its result; an image is called a member when its score is above 0.

    `folds` are the positions, forget images first, that one and the same attacker scored: the scores of two attackers
    do not compare finely enough for one ranking. None for a single attacker.
    """
    m, n = len(forget_scores), len(held_out_scores)
    scores, truth = _labelled(forget_scores, held_out_scores)
    folds = [np.arange(m + n)] if folds is None else folds
    false_positives, true_positives, _ = roc_curve(truth, scores, drop_intermediate=False)
    found = true_positives[false_positives <= FALSE_POSITIVE_RATE].max()
    forget_rate, held_out_rate = float((forget_scores > 0).mean()), float((held_out_scores > 0).mean())
    return MembershipResult(
        model=model,
        attack=attack,
        calibration=calibration,
        auc=fmean(float(roc_auc_score(truth[fold], scores[fold])) for fold in folds),
        auc_noise=sqrt((m + n + len(folds)) / (12 * m * n)),
        balanced_accuracy=(forget_rate + 1 - held_out_rate) / 2,
        tpr_at_1_percent_fpr=float(found) if n * FALSE_POSITIVE_RATE >= 1 else None,
        forget_member_rate=forget_rate,
        held_out_member_rate=held_out_rate,
        forget_images=m,
        held_out_images=n,
        shadow_models=shadow_models,
    )


def check_images(title: str, images: LabelledImages) -> None:
    if len(images.labels) == 0:
        raise DataError(f"There are no {title} images. Membership inference compares groups of images.")
    if len(images.pixel_values) != len(images.labels):
        raise DataError(f"There are {len(images.pixel_values)} {title} images but {len(images.labels)} labels.")


def logits_of(model: Classifier, pixel_values: Tensor, batch_size: int) -> Tensor:
    """Compute (images, classes) logits in float64 on the CPU, or raise ModelError."""
    logits = predict(model, pixel_values, batch_size).cpu().double()
    if logits.shape[:-1] != (len(pixel_values),) or logits.shape[-1] < 2:
        raise ModelError(
            f"The model returned logits of shape {tuple(logits.shape)} for {len(pixel_values)} images; "
            "membership inference needs (images, at least 2 classes)."
        )
    return finite(logits)


def check_labels(title: str, labels: Tensor, classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"The {title} images hold label {low if low < 0 else high}, but the model's head names 0..{classes - 1}. "
            'Give the labels of that head, or attack without labels: attacks=("confidence",).'
        )


def _split_held_out(
    forget: LabelledImages, held_out: LabelledImages, retain: LabelledImages | None, seed: int
) -> tuple[Tensor, Tensor]:
    """Positions of the held-out images that are judged, and of those that calibrate."""
    labels = held_out.labels.cpu()
    of_forget = torch.isin(labels, forget.labels.cpu())
    missing = set(forget.labels.tolist()) - set(labels.tolist())
    if missing:
        raise DataError(
            f"The forget images are of classes {sorted(missing)} too, of which no image is held out: the attack would "
            "measure the class. Hold out images of every forget class."
        )
    if retain is None:
        return torch.nonzero(of_forget).flatten(), torch.empty(0, dtype=torch.long)
    of_retain = torch.isin(labels, retain.labels.cpu())
    shared = torch.nonzero(of_forget & of_retain).flatten()
    shared = shared[torch.randperm(len(shared), generator=torch.Generator().manual_seed(seed))]
    shared = shared[labels[shared].argsort(stable=True)]  # every second one: half of each class, at random
    judged = torch.cat([torch.nonzero(of_forget & ~of_retain).flatten(), shared[::2]])
    return judged, torch.cat([torch.nonzero(of_retain & ~of_forget).flatten(), shared[1::2]])


def _features(attack: MembershipAttack, title: str, logits: Tensor, labels: Tensor) -> Array:
    if attack == "loss":
        check_labels(title, labels, logits.shape[-1])
        return F.cross_entropy(logits, labels, reduction="none")[:, None].numpy()
    log_p = logits.log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    return torch.cat([entropy, p.topk(min(TOP, p.shape[-1])).values], dim=-1).numpy()


def _attacker() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))


def _labelled(members: Array, others: Array) -> tuple[Array, Positions]:
    return np.concatenate([members, others]), np.repeat([1, 0], [len(members), len(others)])


def _cross_validated(forget: Array, held_out: Array, seed: int) -> tuple[Array, list[Positions]]:
    """Scores of forget and held-out images by attackers that learned from the others, and the images of each fold."""
    features, truth = _labelled(forget, held_out)
    scores, folds = np.empty(len(truth)), []
    for train, fold in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, truth):
        scores[fold] = _attacker().fit(features[train], truth[train]).decision_function(features[fold])
        folds.append(fold)
    return scores, folds
