import pytest
import torch

from hf_dtl.functional import saliency_mask


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.77, 1.0])
def test_mask_marks_the_largest_of_all_tensors_together(share):
    generator = torch.Generator().manual_seed(0)
    sizes = (1.0, 0.1, 3.0)
    shapes = ((4, 5, 2), (7,), (3, 11))
    gradients = [
        s * torch.randn(x, generator=generator, dtype=torch.float64) for s, x in zip(sizes, shapes, strict=True)
    ]
    ranked = sorted(
        ((abs(v), i, j) for i, g in enumerate(gradients) for j, v in enumerate(g.flatten().tolist())), reverse=True
    )
    wanted = [torch.zeros(x, dtype=torch.bool) for x in shapes]
    for _, i, j in ranked[: round(share * len(ranked))]:
        wanted[i].view(-1)[j] = True
    mask = saliency_mask(gradients, share)
    assert all(torch.equal(m, w) for m, w in zip(mask, wanted, strict=True))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_the_share_is_exact_also_where_gradients_are_equal(share):
    gradients = [torch.zeros(10, 10), torch.tensor([0.5, -0.5, 2.0]), torch.zeros(97)]
    mask = saliency_mask(gradients, share)
    assert sum(int(m.sum()) for m in mask) == round(share * 200)
    assert mask[1].all(), "before any zero"
