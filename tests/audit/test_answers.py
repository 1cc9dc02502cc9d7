"""An image is answered together with its copies where validation says so, and nowhere else."""

import torch
from audit_toys import split

from hf_dtl.audit.attacks.answers import better_answer, copy_of


def scored(split, wrong):
    """Scores that name every label, but for the first `wrong` images."""
    labels = split.labels.clone()
    labels[:wrong] = (labels[:wrong] + 1) % 3
    return torch.nn.functional.one_hot(labels, 3).double()


def test_copies_count_only_where_they_are_better_on_validation():
    validation, test = split(10, seed=1), split(10, seed=2)

    def plain(images):
        return scored(images, 6)

    def helpful(images, number):
        return 2 * scored(images, 0)

    def harmful(images, number):
        return 2 * scored(images, 12)

    answer, reached = better_answer(plain, helpful, 2, validation, 0.8)
    assert reached == 1 and torch.equal(answer(test), plain(test) + 4 * scored(test, 0))
    assert better_answer(plain, harmful, 2, validation, 0.8) == (plain, 0.8)
    assert better_answer(plain, helpful, 0, validation, 0.8) == (plain, 0.8), "no copies, no sum"


def test_a_tie_is_answered_plainly():
    validation = split(10, seed=1)

    def plain(images):
        return scored(images, 0)

    assert better_answer(plain, lambda images, number: plain(images), 3, validation, 1.0) == (plain, 1.0)


def test_copies_are_the_same_for_every_attack_and_differ_by_number():
    images = split(4, seed=3)
    first, again, other = (copy_of(images, "affine", number) for number in (0, 0, 1))
    assert torch.equal(first.pixel_values, again.pixel_values) and torch.equal(first.labels, images.labels)
    assert not torch.equal(first.pixel_values, other.pixel_values)
    assert torch.equal(copy_of(images, "none", 0).pixel_values, images.pixel_values) and len(first) == len(images)
