"""Kernel ridge regression against its primal form and a loop."""

import math

import pytest
import torch

from hf_dtl.functional import gram, kernel_ridge


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
