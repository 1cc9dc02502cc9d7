import pytest
import torch
from torch.nn import functional as F

from hf_dtl.functional import bounded_forgetting, distillation
from hf_dtl.functional.pair_losses import pair_distance, pair_forgetting, pair_losses

NAN = torch.nan
OUTPUT = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0.0, NAN, 2.0, 1.0, NAN])
KNOWN = [0, 2, 3]
VALUES = torch.tensor([[0.5], [9.0], [-1.0], [2.0], [3.0]])


def test_pairs_of_classes_equal_the_losses_of_one_image():
    classes = LABELS.nan_to_num().long()
    for found, loss in (
        (pair_losses(OUTPUT, LABELS), F.cross_entropy),
        (pair_forgetting(OUTPUT, LABELS, delta=0.1, entropy_weight=0.3),
         lambda z, y: bounded_forgetting(z, y, delta=0.1, entropy_weight=0.3)),
    ):  # fmt: skip
        assert found.shape == (5,) and found[[1, 4]].tolist() == [0.0, 0.0]
        for i in KNOWN:
            torch.testing.assert_close(found[i], loss(OUTPUT[i : i + 1], classes[i : i + 1]))


def test_pairs_of_a_regression_by_hand():
    labels = torch.tensor([0.0, NAN, 1.0, 2.0, NAN])
    torch.testing.assert_close(pair_losses(VALUES, labels, 2.0), torch.tensor([0.0625, 0.0, 1.0, 0.0, 0.0]))
    found = pair_forgetting(VALUES, labels, 2.0, delta=0.05)
    wanted = [-torch.log(1.05 - torch.exp(torch.tensor(-e))).item() for e in (0.25, 1.0, 0.0)]
    torch.testing.assert_close(found, torch.tensor([wanted[0], 0.0, wanted[1], wanted[2], 0.0]))


def test_distances_are_summed_over_the_pairs_that_count():
    original = OUTPUT.flip(0).clone().requires_grad_()
    output = OUTPUT.clone().requires_grad_()
    found = pair_distance(output, original, LABELS, temperature=3.0)
    torch.testing.assert_close(found, 3 * distillation(OUTPUT[KNOWN], original[KNOWN], 3.0))
    found.backward()
    assert original.grad is None and not output.grad[[1, 4]].any() and output.grad[KNOWN].any()
    found = pair_distance(VALUES, VALUES + 3, LABELS, 2.0)
    assert found.item() == pytest.approx(3 * 2.25) and pair_distance(VALUES, VALUES, LABELS, 2.0) == 0


def test_forgetting_a_value_is_bounded_and_pushes_away_on_the_side_where_it_is():
    output = torch.tensor([[1e-6], [-1e-6], [0.5], [5.0], [500.0]], requires_grad=True)
    pair_forgetting(output, torch.zeros(5), 0.5, delta=0.05).sum().backward()
    slope = output.grad.flatten()
    assert slope[0] < 0 < slope[1], "descent moves away"
    assert slope.abs().max() <= 1 / (0.05 * 0.5) + 1e-3 and slope.abs()[0] > 0.99 / (0.05 * 0.5)
    assert slope.abs()[2] > slope.abs()[3] > slope.abs()[4] == 0


@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_pair_without_part_has_no_gradient(scale):
    output = (OUTPUT if scale is None else VALUES).clone().requires_grad_()
    for loss in (pair_losses, pair_forgetting):
        (gradient,) = torch.autograd.grad(loss(output, LABELS, scale).sum(), output)
        assert torch.isfinite(gradient).all() and not gradient[[1, 4]].any() and gradient[KNOWN].any()
