import pytest
import torch

from hf_dtl.functional import wrong_labels


def test_a_wrong_label_is_any_but_the_own_one_equally_often():
    labels = torch.arange(5).repeat_interleave(4000)
    wrong = wrong_labels(labels, 5, torch.Generator().manual_seed(0))
    counts = torch.zeros(5, 5)
    counts.index_put_((labels, wrong), torch.ones(()), accumulate=True)
    assert not counts.diagonal().any()
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert ((others - 1000).abs() < 5 * (4000 * 0.25 * 0.75) ** 0.5).all()


def test_draws_follow_the_generator_alone():
    labels, state = torch.arange(100) % 7, torch.random.get_rng_state()
    a, b, other = (wrong_labels(labels, 7, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, other) and torch.equal(torch.random.get_rng_state(), state)


def test_one_class_has_no_wrong_label():
    with pytest.raises(ValueError, match="at least two classes, got 1"):
        wrong_labels(torch.zeros(3, dtype=torch.long), 1)
