"""Elections against a slow search, and calibration against the likelihoods of a fine grid."""

import itertools

import pytest
import torch

from hf_dtl.functional import calibration, elect

LABELS = torch.arange(40) % 4


def answers(seed, strength, draws=2):
    """Probabilities that prefer the right class, the more the stronger."""
    generator = torch.Generator().manual_seed(seed)
    right = torch.nn.functional.one_hot(LABELS, 4) * strength
    return [(torch.randn(40, 4, generator=generator) + right).softmax(-1) for _ in range(draws)]


GIVEN = {"weak": answers(0, 0.3), "strong": answers(1, 1.0), "other": answers(2, 0.9), "third": answers(3, 0.7)}


def accuracy(votes):
    drawn = zip(*(GIVEN[name] for name in votes), strict=True)
    return sum((sum(own).argmax(-1) == LABELS).double().mean().item() for own in drawn) / 2


def test_a_committee_grows_by_the_member_that_helps_most_and_stops_at_its_best():
    votes = elect(GIVEN, LABELS, rounds=8)
    assert accuracy(votes) > max(accuracy([name]) for name in GIVEN) + 0.02, "worth more than every member"
    for place in range(1, len(votes) + 1):
        chosen = accuracy(votes[:place])
        assert chosen == max(accuracy([*votes[: place - 1], name]) for name in GIVEN)
        assert place == len(votes) or chosen < accuracy(votes)
    assert max(accuracy(v) for v in itertools.product(GIVEN, repeat=2)) >= accuracy(votes[:2])


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_different_members_than_may_go_on(most):
    votes = elect(GIVEN, LABELS, most=most)
    assert len(set(votes)) <= most and votes[0] == max(GIVEN, key=lambda name: accuracy([name]))


def test_of_equals_the_more_likely_member_is_elected():
    certain = {name: [torch.nn.functional.one_hot(LABELS, 4) * size + 0.1] for name, size in (("a", 1.0), ("b", 9.0))}
    assert elect(certain, LABELS) == ("b",)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_calibration_does_not_depend_on_the_scale_of_scores(scale):
    scores = torch.stack([own.log() for own in answers(5, 2.0, 1)])[0].double()
    factor = calibration(scores * scale, LABELS)
    assert factor * scale == pytest.approx(calibration(scores, LABELS))
    losses = {
        f: torch.nn.functional.cross_entropy(scores * f, LABELS).item() for f in torch.logspace(-3, 3, 300).tolist()
    }
    best = min(losses, key=losses.get)
    assert 0.5 < factor * scale / best < 2
    assert calibration(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])) > 0, "constant scores have no deviation"
