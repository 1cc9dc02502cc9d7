"""What is meant where a user says little."""

import pytest

from hf_dtl.errors import DataError
from hf_dtl.pipeline.forget_options import ForgetOptions

LETTERS = {
    "forget": "glyphs[A,B,D,E,G,H]", "retain": "glyphs[N,Q,R,T]", "retain_images_per_class": 10,
    "novel": "glyphs", "novel_label_column": "family", "train_epochs": 48.0,
}  # fmt: skip
DIGITS = {"forget": "mnist[0-5]", "retain": "mnist[6-9]"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, LETTERS),
        ({"novel": "none"}, LETTERS | {"novel": "none", "novel_label_column": None}),
        ({"novel_label_column": "slant"}, LETTERS | {"novel_label_column": "slant"}),
        ({"train_epochs": 0.2}, LETTERS | {"train_epochs": 0.2}),
        (
            {"retain": "glyphs[sans,mono]", "retain_label_column": "family"},
            {"novel": "fashion_mnist[0,1,2,3]", "novel_label_column": None},
        ),
        (
            DIGITS,
            {"retain_images_per_class": 10, "novel": "fashion_mnist[0,1,2,3]", "novel_label_column": None,
             "train_epochs": None},
        ),
        ({"model": "user/model"}, {"retain_images_per_class": None, "novel": None, "train_epochs": None}),
        ({"forget": "class=A", "retain": "glyphs"}, {"novel": None, "train_epochs": None}),
    ],
)  # fmt: skip
def test_defaults_follow_the_data(given, meant):
    options = ForgetOptions(**given)
    assert {name: getattr(options, name) for name in meant} == meant


def test_a_malformed_name_of_data_is_refused_at_once():
    with pytest.raises(DataError, match="the name is empty or has"):
        ForgetOptions(forget="glyphs]A[B]")
