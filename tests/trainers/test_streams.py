import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from hf_dtl.errors import ConfigError
from hf_dtl.trainers.streams import ChunkSampler, PairedStreams, labels_of


class Items(TensorDataset):
    def __getitem__(self, i):
        x, y = super().__getitem__(i)
        return {"pixel_values": x, "labels": int(y)}


def items(n, classes=6):
    return Items(torch.arange(n, dtype=torch.float32).view(n, 1, 1, 1), torch.arange(n) % classes)


def streams(forget=50, retain=7, **kwargs):
    options = dict(num_chunks=4, chunk_size=3, retain_chunk_size=2, chunking="random", seed=0) | kwargs
    return PairedStreams(items(forget), items(retain), **options)


def test_streams_of_unequal_length_each_pass_over_everything():
    s = streams()
    forget = np.concatenate([s.forget_indices(i).ravel() for i in range(25)])  # 300 = 6 passes of 50
    retain = np.concatenate([s.retain_indices(i).ravel() for i in range(7)])  # 56 = 8 passes of 7
    assert all(sorted(part) == list(range(50)) for part in forget.reshape(6, 50))
    assert all(sorted(part) == list(range(7)) for part in retain.reshape(8, 7))
    assert not np.array_equal(forget[:50], forget[50:100]), "reshuffled on every pass"
    assert s.steps_per_epoch == 5 and len(s) == 20


def test_class_chunks_hold_classes_of_their_own():
    s = streams(chunking="class", chunk_size=8)
    labels = labels_of(s.forget)
    deals = set()
    for step in range(20):
        chunks = [frozenset(labels[row]) for row in s.forget_indices(step)]
        assert all(not a & b for i, a in enumerate(chunks) for b in chunks[:i])
        deals.add(frozenset(chunks))
    assert len(deals) > 5, "classes are dealt anew"


def test_small_classes_are_repeated_rather_than_refused():
    assert streams(forget=6, chunking="class", chunk_size=5).forget_indices(0).shape == (4, 5)


@pytest.mark.parametrize("chunking", ["random", "class"])
def test_a_cell_depends_on_the_seed_and_its_number_alone(chunking):
    a, b, other = (streams(chunking=chunking, seed=seed) for seed in (1, 1, 2))
    for _ in range(3):
        b[17]  # another history
    for chunk in (0, 5, 83):
        for stream in ("forget", "retain"):
            assert torch.equal(a[chunk][stream]["pixel_values"], b[chunk][stream]["pixel_values"])
    assert any(not torch.equal(a[c]["forget"]["pixel_values"], other[c]["forget"]["pixel_values"]) for c in range(4))
    rows = a.forget_indices(4)
    assert torch.equal(a[17]["forget"]["pixel_values"].ravel(), torch.tensor(rows[1], dtype=torch.float32))


def test_sampler_asks_for_the_epoch_at_every_pass():
    epoch = [0]
    sampler = ChunkSampler(streams(), lambda: epoch[0])
    assert list(sampler) == list(range(20))
    epoch[0] = 3
    assert list(sampler) == list(range(60, 80))


def test_bad_input():
    with pytest.raises(ConfigError, match="retain data set is empty"):
        streams(retain=0)
    with pytest.raises(ConfigError, match="6 classes for num_chunks=7"):
        streams(chunking="class", num_chunks=7)
