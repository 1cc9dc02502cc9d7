"""Validation images are set aside from the training images: always the same ones, never more than can be spared."""

import pytest
import torch
from audit_toys import split

from hf_dtl.data import ImageTensors
from hf_dtl.errors import DataError
from hf_dtl.metrics import attacked
from hf_dtl.metrics.attacked import attacked_task, validation_rows

NAMES = ("a", "b", "c")


def prepared(train, test, most_budget, **options):
    return attacked_task(train, test, most_budget=most_budget, num_channels=3, processor=None, **options)


def test_validation_is_split_off_the_training_images():
    train, test = split(20, seed=0), split(5, seed=1)
    task = prepared(train, test, most_budget=4)
    again = prepared(train, test, most_budget=4)
    assert task.labels == ("0", "1", "2")
    assert torch.bincount(task.validation.labels).tolist() == [4, 4, 4]
    assert torch.equal(task.validation.pixel_values, again.validation.pixel_values)
    assert torch.equal(task.test.pixel_values, test.pixel_values)
    together = torch.cat([task.train.pixel_values, task.validation.pixel_values]).flatten(1)
    assert len(together.unique(dim=0)) == len(together) == len(train)
    assert torch.equal(together.sum(0), train.pixel_values.flatten(1)[_order(train, together)].sum(0))


def _order(train, together):
    """Where each of `together` stands in `train`."""
    return [int((train.pixel_values.flatten(1) == row).all(1).nonzero()) for row in together]


@pytest.mark.parametrize(
    ("count", "most_budget", "expected"), [(10, 1, 2), (10, 9, 1), (3, 1, 1), (1000, 1, 100), (1000, 950, 50)]
)
def test_how_many_are_set_aside(count, most_budget, expected):
    labels = torch.arange(3).repeat(count)
    mask = validation_rows(labels, most_budget, NAMES)
    assert torch.bincount(labels[mask]).tolist() == [expected] * 3


def test_a_class_is_drawn_alike_whatever_the_others_are():
    labels = torch.arange(3).repeat(10)
    mask = validation_rows(labels, 1, NAMES)
    fewer = labels[labels != 0]
    assert torch.equal(mask[labels != 0], validation_rows(fewer, 1, NAMES))


def test_too_few_images_are_refused_by_name():
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(DataError, match="class 'b' has 2 training images: too few for a budget of 2"):
        validation_rows(labels, 2, NAMES)


def test_given_validation_images_are_used_as_they_are():
    train, validation, test = split(5, seed=0), split(2, seed=1), split(2, seed=2)
    task = prepared(train, test, most_budget=5, validation_dataset=validation, labels=NAMES)
    assert task.labels == NAMES
    for own, given in ((task.train, train), (task.validation, validation), (task.test, test)):
        assert torch.equal(own.pixel_values, given.pixel_values)


def test_classes_that_no_test_image_judges_are_named():
    """An accuracy over the rest would be taken for that of all."""
    train, test = split(5, seed=0), split(4, seed=1)
    fewer = test.subset([row for row, label in enumerate(test.labels.tolist()) if label == 1])
    with pytest.raises(DataError, match="none of the classes a, c, which the attacker learns: 2 of 3. Give test"):
        prepared(train, fewer, most_budget=1, labels=NAMES)
    only = train.subset([row for row, label in enumerate(train.labels.tolist()) if label != 2])
    other = test.subset([row for row, label in enumerate(test.labels.tolist()) if label != 2])
    assert len(prepared(only, other, most_budget=1, labels=NAMES).test) == 8, "what nobody learns need not be judged"


def test_large_data_sets_are_not_decoded_whole(tmp_path):
    """Of a data set the attacker's pool is cut before decoding: the images beyond it are never opened."""
    import datasets
    import numpy as np
    from PIL import Image

    from hf_dtl.data import embedded_processor

    paths, labels = [], torch.arange(2).repeat(60).tolist()
    for number in range(120):
        paths.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((4, 4, 3), number, dtype=np.uint8)).save(paths[-1])
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

    def some(start, stop):
        values = {"image": paths[start:stop], "label": labels[start:stop]}
        return datasets.Dataset.from_dict(values, features=features)

    task = attacked_task(
        some(0, 100), some(100, 110), some(110, 120), most_budget=1, num_channels=3,
        processor=lambda: embedded_processor(size=4),
    )  # fmt: skip
    assert torch.bincount(task.train.labels).tolist() == [attacked.POOL] * 2
    assert isinstance(task.train, ImageTensors) and len(task.test) == len(task.validation) == 10
