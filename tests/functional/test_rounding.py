import pytest
import torch

from hf_dtl.functional import round_to_bits


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(7,), (5, 9), (4, 3, 2, 2)])
def test_every_value_is_the_nearest_of_the_row_s_levels(bits, shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    top = 2 ** (bits - 1) - 1
    rounded = round_to_bits(weight, bits)
    assert rounded.shape == weight.shape
    rows = [(weight, rounded)] if weight.dim() == 1 else list(zip(weight, rounded, strict=True))
    for row, found in rows:
        levels = torch.tensor([row.abs().max() * level / top for level in range(-top, top + 1)])
        for value, given in zip(row.flatten(), found.flatten(), strict=True):
            torch.testing.assert_close(given, levels[(levels - value).abs().argmin()].to(given))
    torch.testing.assert_close(round_to_bits(rounded, bits), rounded)
    assert rounded.abs().max() == weight.abs().max()


def test_zero_stays_zero():
    assert torch.equal(round_to_bits(torch.zeros(3, 4), 4), torch.zeros(3, 4))
    assert round_to_bits(torch.tensor(0.3), 4).item() == pytest.approx(0.3)
