import math

import pytest
import torch

from hf_dtl.functional.channel import (
    channel_bound,
    hard_labels,
    mixed_views,
    parse_channel,
    rounded_outputs,
    targets_of,
)


@pytest.mark.parametrize(
    ("channel", "options", "bits", "size"),
    [
        ("labels", {}, 4000, 500),
        ("labels", {"rejection": True}, 2000 * math.log2(5), 581),
        ("labels", {"rounds": 3}, 12000, 1500),
        ("labels", {"choices": 20}, 4000 + math.log2(20), 501),
        ("outputs:16", {}, 2000 * 4 * 4, 4000),
        ("outputs:2", {"rounds": 2}, 2 * 2000 * 4, 2000),
    ],
)
def test_the_bound_counts_every_word(channel, options, bits, size):
    found = channel_bound(channel, 2000, 4, **options)
    assert found.bits == pytest.approx(bits) and found.bytes == size


def test_real_numbers_have_no_bound_and_unknown_channels_no_name():
    assert channel_bound("outputs", 2000, 4) is None and channel_bound("features:3", 2000, 4) is None
    for wrong in ("", "label", "outputs:1", "outputs:x", "features", "features:0", "labels:4", "outputs:"):
        with pytest.raises(ValueError, match="channel="):
            parse_channel(wrong)


def test_codes_have_no_more_values_than_the_bound_counts_and_are_what_was_said():
    logits = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)) * 3
    best = logits.softmax(-1).amax(-1)
    codes = hard_labels(logits, 0.6)
    assert set(codes.tolist()) == {0, 1, 2, 3, 4} and torch.equal(codes == 4, best < 0.6)
    targets = targets_of(codes, 4)
    assert torch.equal(targets.sum(-1) == 0, codes == 4)
    assert torch.equal(targets[codes < 4].argmax(-1), logits[codes < 4].argmax(-1))
    rounded = rounded_outputs(logits, 5)
    assert set(rounded.flatten().tolist()) == {0, 1, 2, 3, 4}
    wanted = logits.softmax(-1)
    assert (rounded / 4 - wanted).abs().max() <= 0.125 + 1e-6
    sums = targets_of(rounded, 4, 5).sum(-1)
    assert torch.allclose(sums[rounded.sum(-1) > 0], torch.ones(()))


def test_views_are_the_same_again_and_every_other_is_of_one_image():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    views = mixed_views(images, 300, torch.Generator().manual_seed(1))
    assert torch.equal(views, mixed_views(images, 300, torch.Generator().manual_seed(1)))
    values = views.flatten(1).mean(-1)
    assert torch.equal((values[::2] - values[::2].round()).abs() < 1e-6, torch.ones(150, dtype=torch.bool))
    assert ((values[1::2] > 0.01) & (values[1::2] < 0.99)).float().mean() > 0.3
