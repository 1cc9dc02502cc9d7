import pytest
import torch

from hf_dtl.functional import channel_scale

GENERATOR = torch.Generator().manual_seed(0)
ROWS = 10.0 ** torch.tensor([0, 0, -20, 17, 0, 0])
COLUMNS = 10.0 ** torch.tensor([0, 0, 0, 12, -15, 0, 0])


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 3, 3)])
def test_what_was_rescaled_is_of_the_usual_size_again(shape):
    weight = 0.02 * torch.randn(shape, generator=GENERATOR)
    extra = [1] * (len(shape) - 2)
    hidden = weight * (ROWS[:, None] * COLUMNS).view(6, 7, *extra)
    rows, columns = channel_scale(hidden, 0.02)
    assert {*rows.log2().frac().tolist(), *columns.log2().frac().tolist()} == {0}  # dividing by them rounds nothing
    back = hidden / (rows[:, None] * columns).view(6, 7, *extra)
    assert (back / weight).log2().abs().max() < 1.5
    assert ((rows == 1) == (ROWS == 1)).all() and ((columns == 1) == (COLUMNS == 1)).all()


def test_the_usual_and_the_dead_stay_as_they_are():
    weight = 0.1 * torch.randn(8, 5, generator=GENERATOR)
    weight[3], weight[:, 2] = 0, 0
    rows, columns = channel_scale(weight, 0.02)
    assert (rows == 1).all() and (columns == 1).all()
    rows, columns = channel_scale(torch.zeros(4, 4), 0.02)
    assert (rows == 1).all() and (columns == 1).all()


def test_a_vector_has_rows_alone():
    rows, columns = channel_scale(torch.tensor([1.0, 15.0, 0.0, -1e-9]), 1.0)
    assert rows[:3].tolist() == [1, 1, 1] and rows[3].item() == pytest.approx(1e-9, rel=0.5)
    assert columns.tolist() == [1]
