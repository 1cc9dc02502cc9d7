"""Kernel ridge regression against its primal form and a loop."""

import math

import pytest
import torch

from hf_dtl.functional import kernel_ridge, rbf, squared_distances


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(rows, columns, width):
    """Kernel values of all pairs of vectors; the linear kernel for no width."""
    return rows @ columns.T if width is None else rbf(squared_distances(rows, columns), width)


def test_the_rbf_kernel_is_the_loop_over_all_pairs():
    rows, columns, width = drawn(5, 3), drawn(4, 3, seed=1), 0.7
    found = gram(rows, columns, width)
    for i in range(5):
        for j in range(4):
            distance = sum((rows[i, k] - columns[j, k]).item() ** 2 for k in range(3))
            assert found[i, j].item() == pytest.approx(math.exp(-distance / (2 * width**2)), rel=1e-9)


def test_with_a_linear_kernel_it_is_ridge_regression_in_the_primal_form():
    rows, queries, labels, ridge = drawn(12, 4), drawn(6, 4, seed=1), torch.arange(12) % 3, 0.3
    scores = gram(queries, rows, None) @ kernel_ridge(gram(rows, rows, None), labels, 3, ridge)
    onto = torch.eye(3, dtype=torch.float64)[labels] - 1 / 3
    weight = torch.linalg.solve(rows.T @ rows + ridge * torch.eye(4, dtype=torch.float64), rows.T @ onto)
    assert torch.allclose(scores, queries @ weight, atol=1e-12)


def test_the_solution_is_stationary():
    rows, labels, ridge = drawn(9, 2), torch.arange(9) % 2, 0.05
    kernel = gram(rows, rows, 1.0)
    solution = kernel_ridge(kernel, labels, 2, ridge).requires_grad_()
    onto = torch.nn.functional.one_hot(labels, 2) - 0.5
    loss = (kernel @ solution - onto).square().sum() + ridge * (solution.T @ kernel @ solution).trace()
    (gradient,) = torch.autograd.grad(loss, solution)
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("count", [3, 700])
def test_squared_distances_are_those_of_the_differences(count):
    rows, columns = drawn(count, 4), drawn(6, 4, seed=1)
    for found, other in ((squared_distances(rows), rows), (squared_distances(rows, columns), columns)):
        torch.testing.assert_close(found, (rows[:, None] - other[None]).square().sum(2), rtol=1e-9, atol=1e-12)
        assert found.min() >= 0
    own = squared_distances(rows)
    torch.testing.assert_close(own, own.T, rtol=1e-12, atol=1e-12)
    assert torch.equal(own.diagonal(), torch.zeros(count).double())
    torch.testing.assert_close(rbf(own, 0.7), gram(rows, rows, 0.7))


def test_a_kernel_in_single_precision_is_solved_in_double():
    rows, labels = drawn(40, 60), torch.arange(40) % 3
    kernel = gram(rows, rows, 8.0)
    exact, found = (kernel_ridge(given, labels, 3, 1e-3) for given in (kernel, kernel.float()))
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
