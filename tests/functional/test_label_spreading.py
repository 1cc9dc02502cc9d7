"""Label spreading against scikit-learn's iteration, and the graph against a loop."""

import math

import numpy as np
import pytest
import torch
from sklearn.semi_supervised import LabelSpreading

from hf_dtl.functional import neighbour_graph, rbf, spread_labels, squared_distances


def drawn(count):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % 3
    return labels, torch.randn(count, 4, generator=generator, dtype=torch.float64) + 1.5 * labels[:, None]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_it_is_where_the_iteration_of_scikit_learn_ends(share):
    labels, vectors = drawn(40)
    affinity = rbf(squared_distances(vectors), 1.0)
    told = np.where(np.arange(40) < 9, labels.numpy(), -1)
    plain = LabelSpreading(kernel=lambda a, b: affinity.numpy().copy(), alpha=share, max_iter=3000, tol=1e-13)
    plain.fit(vectors.numpy(), told)
    scores = spread_labels(affinity.clone().fill_diagonal_(0), labels[:9], 3, share)
    shares = scores / scores.sum(1, keepdim=True)
    assert np.abs(shares.numpy() - plain.label_distributions_).max() < 1e-6
    assert (shares.argmax(1).numpy() == plain.transduction_).all()
    root = affinity.fill_diagonal_(0).sum(1).rsqrt()
    onto = torch.eye(3, dtype=torch.float64)[labels[:9]].new_zeros(40, 3)
    onto[:9] = torch.eye(3, dtype=torch.float64)[labels[:9]]
    by_steps = onto
    for _ in range(2000):
        by_steps = share * (root[:, None] * affinity * root) @ by_steps + (1 - share) * onto
    torch.testing.assert_close(scores, by_steps)


@pytest.mark.parametrize("neighbours", [1, 3, 99])
def test_the_graph_is_that_of_a_loop(neighbours):
    _, vectors = drawn(12)
    found = neighbour_graph(squared_distances(vectors), neighbours)
    count = min(neighbours, 11)
    apart = [[math.dist(a, b) for b in vectors.tolist()] for a in vectors.tolist()]
    nearest = [sorted((d, j) for j, d in enumerate(row) if j != i)[:count] for i, row in enumerate(apart)]
    scale = sum(row[-1][0] for row in nearest) / 12
    for i in range(12):
        for j in range(12):
            joined = any(other == j for _, other in nearest[i]) or any(other == i for _, other in nearest[j])
            wanted = math.exp(-(apart[i][j] ** 2) / (2 * scale**2)) if joined and i != j else 0.0
            assert found[i, j].item() == pytest.approx(wanted, abs=1e-9)


def test_a_vector_without_neighbours_and_equal_vectors_give_finite_scores():
    assert torch.isfinite(spread_labels(torch.zeros(4, 4), torch.tensor([0, 1]), 2, 0.9)).all()
    same = neighbour_graph(torch.zeros(5, 5), 2)
    assert torch.isfinite(spread_labels(same, torch.tensor([0, 1]), 2, 0.9)).all()
