"""Answers of images that were held out: a slow oracle, what they foretell, and which images are chosen."""

import math

import pytest
import torch

from hf_dtl.functional import held_out_answers, unseen_labels


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_equals_a_slow_oracle():
    """One image at a time, distances summed over dimensions in python, the system solved by elimination."""
    support, asked = (
        [drawn(7, 3), 5 + 0.01 * drawn(7, 2, seed=1)],
        [drawn(4, 3, seed=2), 5 + 0.01 * drawn(4, 2, seed=3)],
    )
    labels, ridge, bandwidth = torch.tensor([0, 1, 2, 0, 1, 2, 2]), 0.3, 0.7
    wanted = torch.zeros(4, 3, dtype=torch.float64)
    for known, others in zip(support, asked, strict=True):
        mean = [sum(column) / 7 for column in known.T.tolist()]
        deviation = [math.sqrt(sum((v - m) ** 2 for v in c) / 7) for c, m in zip(known.T.tolist(), mean, strict=True)]

        def scaled(rows, mean=mean, deviation=deviation):
            return [[(v - m) / d for v, m, d in zip(row, mean, deviation, strict=True)] for row in rows.tolist()]

        def square(a, b):
            return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

        rows, others = scaled(known), scaled(others)
        spread = bandwidth * sum(square(a, b) for a in rows for b in rows) / 49
        gram = torch.tensor([[math.exp(-square(a, b) / spread) + ridge * (a is b) for b in rows] for a in rows])
        told = torch.tensor([[(y == c) - 1 / 3 for c in range(3)] for y in labels.tolist()])
        weights = torch.linalg.inv(gram.double()) @ told.double()
        for i, image in enumerate(others):
            kernel = torch.tensor([math.exp(-square(image, row) / spread) for row in rows], dtype=torch.float64)
            wanted[i] += kernel @ weights / 2
    found = held_out_answers(support, labels, asked, 3, ridge=ridge, bandwidth=bandwidth)
    assert torch.allclose(found, wanted + 1 / 3, atol=1e-6)


def test_an_image_takes_the_answer_of_its_neighbours_and_constants_say_nothing():
    centres = 4 * drawn(3, 5)
    labels = torch.arange(3).repeat(10)
    support = [centres[labels] + 0.3 * drawn(30, 5, seed=1)]
    asked = centres + 0.3 * drawn(3, 5, seed=2)
    answers = held_out_answers(support, labels, [asked], 3)
    assert answers.argmax(-1).tolist() == [0, 1, 2] and answers.max() < 1.2 and answers.diagonal().min() > 0.7
    noise = [torch.ones(30, 4) + 1e-8 * drawn(30, 4), torch.zeros(30, 2, dtype=torch.float64)]
    shown = [torch.ones(3, 4, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)]
    nothing = held_out_answers(noise, labels, shown, 3)
    assert torch.allclose(nothing, torch.full_like(nothing, 1 / 3), atol=1e-6)


def test_chooses_the_images_that_are_least_surely_right():
    answers = torch.tensor([[0.9, 0.1, 0.0], [0.4, 0.1, 0.5], [0.5, 0.3, 0.2], [0.0, 0.0, 1.0]])
    labels = torch.tensor([0, 1, 0, 2])
    for wrong, rows, others in ((0, [], []), (1, [1], [2]), (2, [1, 2], [2, 1]), (4, [1, 2, 0, 3], [2, 1, 1, 0])):
        chosen, other = unseen_labels(answers, labels, wrong)
        assert chosen.tolist() == rows and other.tolist() == others


@pytest.mark.parametrize("options", [{"ridge": 0.0}, {"bandwidth": -1.0}, {"ridge": float("nan")}])
def test_bad_options(options):
    with pytest.raises(ValueError, match="positive ridge and bandwidth"):
        held_out_answers([drawn(3, 2)], torch.tensor([0, 1, 0]), [drawn(1, 2)], 2, **options)


def test_bad_counts():
    with pytest.raises(ValueError, match="Cannot choose 3 of 2"):
        unseen_labels(torch.rand(2, 3), torch.tensor([0, 1]), 3)
    with pytest.raises(ValueError, match="with 1 classes"):
        unseen_labels(torch.rand(2, 1), torch.tensor([0, 0]), 1)
    with pytest.raises(ValueError, match="Need images"):
        held_out_answers([drawn(0, 2)], torch.zeros(0, dtype=torch.long), [drawn(1, 2)], 2)
