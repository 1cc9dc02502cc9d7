"""What is meant where a user says little."""

import numpy as np
import pytest

from hf_dtl.audit.suites import SUITES
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.options import as_given
from hf_dtl.scenarios.spec import is_request

FAMILIES = {
    "forget": "glyphs[sans,mono,serif,stix]", "retain": "glyphs[N,Q,R,T]", "retain_images_per_class": 10,
    "novel": "glyphs", "novel_label_column": "style", "train_epochs": 24.0, "augmentation": "photometric",
    "architecture": "resnet", "train_learning_rate": 3e-3, "adapt_learning_rate": 1e-3,
}  # fmt: skip
DIGITS = {"forget": "mnist[0-5]", "retain": "mnist[6-9]"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({}, FAMILIES),
        ({"novel": "none"}, FAMILIES | {"novel": "none", "novel_label_column": None}),
        ({"novel_label_column": "slant"}, FAMILIES | {"novel_label_column": "slant"}),
        ({"train_epochs": 0.2}, FAMILIES | {"train_epochs": 0.2}),
        (
            {"retain": "glyphs[regular,italic]", "retain_label_column": "style"},
            {"novel": "fashion_mnist[0,1,2,3]", "novel_label_column": None},
        ),
        (
            {"forget": "glyphs[A,B]", "architecture": "vit"},
            {"novel_label_column": "family", "adapt_learning_rate": None},
        ),
        (
            DIGITS,
            {"retain_images_per_class": 10, "novel": "fashion_mnist[0,1,2,3]", "novel_label_column": None,
             "train_epochs": None, "augmentation": "affine", "adapt_learning_rate": 1e-3},
        ),
        (
            {"model": "user/model"},
            {"architecture": None, "retain_images_per_class": None, "novel": None, "train_epochs": None},
        ),
        ({"forget": "class=A", "retain": "glyphs"}, {"architecture": "vit", "novel": None, "train_epochs": None}),
    ],
)  # fmt: skip
def test_defaults_follow_the_data(given, meant):
    options = ForgetOptions(**given)
    assert {name: getattr(options, name) for name in meant} == meant


@pytest.mark.parametrize("given", [DIGITS, {"forget": "random=5%", "method": "multitask"}])
def test_the_position_of_rows_is_for_requests_that_ask_the_given_head(given):
    assert ForgetOptions(forget="class=3", retain="mnist", head_by_position=True).head_by_position
    with pytest.raises(ConfigError, match="--head_by_position True is for .*, and this is .*leave it out"):
        ForgetOptions(**given, head_by_position=True)


def test_a_malformed_name_of_data_is_refused_at_once():
    with pytest.raises(DataError, match="the name is empty or has"):
        ForgetOptions(forget="glyphs]A[B]")


@pytest.mark.parametrize(
    ("given", "suite", "attacks"),
    [
        ({}, "quick-1", SUITES["quick-1"].attacks),
        ({"suite": "standard-1"}, "standard-1", SUITES["standard-1"].attacks),
        ({"seeds": "0"}, "custom", ("linear_probe", "full", "head_then_full")),
        ({"successive_halving": True}, "custom", ("linear_probe", "full", "head_then_full")),
        ({"full_learning_rates": "1e-3"}, "custom", ("linear_probe", "full", "head_then_full")),
        ({"suite": "custom", "attacks": "lora"}, "custom", ("lora",)),
        ({"max_stack": 1, "membership": False}, "quick-1", SUITES["quick-1"].attacks),
        ({"forget": "class=A", "retain": "glyphs"}, "quick-1", SUITES["quick-1"].attacks),
        ({"forget": "random=5%", "forget_tasks": "a", "method": "multitask"}, "custom", ("full",)),
    ],
)
def test_a_suite_attacks_unless_something_that_it_fixes_is_given(given, suite, attacks):
    options = ForgetOptions(**given)
    assert (options.suite, options.attacker().attacks) == (suite, attacks)


@pytest.mark.parametrize("own", [{"attacks": "full"}, {"budgets": "5"}, {"lora_learning_rates": "1e-3"}])
def test_a_suite_and_what_it_fixes_are_refused_together(own):
    (name,) = own
    with pytest.raises(ConfigError, match=f"--suite quick-1 fixes the attacker: leave out --{name}, or give"):
        ForgetOptions(suite="quick-1", **own)


def test_an_unknown_suite_is_named_with_the_nearest():
    with pytest.raises(ConfigError, match="no suite 'quick1'.*quick-1.* There are: quick-1, standard-1, full-1, cust"):
        ForgetOptions(suite="quick1")


def test_a_precision_that_the_launcher_chose_is_recorded(monkeypatch):
    assert ForgetOptions().bf16 is False
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    options = ForgetOptions()
    assert options.recorded()["bf16"] is True and options.settings()["bf16"] is True
    assert options.plain()["bf16"] is False, "so that the recorded command says --bf16"


@pytest.mark.parametrize("seed", (-1, 2**32))
def test_seeds_that_numpy_does_not_take_are_refused(seed):
    with pytest.raises(ConfigError, match=rf"--seed {seed} must be a whole number in 0..4294967295"):
        ForgetOptions(seed=seed)


@pytest.mark.parametrize("name", ("steps", "train_epochs", "adapt_epochs", "retrain_epochs"))
def test_negative_steps_and_passes_are_refused(name):
    with pytest.raises(ConfigError, match=f"--{name} -5 must not be negative"):
        ForgetOptions(**{name: -5})


@pytest.mark.parametrize(
    ("given", "message"),
    [({"seed": "x"}, "seed='x' must be a whole"), ({"steps": 2.5}, "steps=2.5 must be"), ({"bf16": 1}, "bf16=1 must")],
)
def test_values_of_another_type_are_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        ForgetOptions(**given)


@pytest.mark.parametrize(
    "name", ("learning_rate", "train_learning_rate", "adapt_learning_rate", "retrain_learning_rate")
)
@pytest.mark.parametrize("value", (-1.0, 0.0, float("nan"), float("inf"), 1e20))
def test_learning_rates_that_are_none_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"--{name} .* must be above 0 and below 1000"):
        ForgetOptions(**{name: value})


def test_a_tilde_that_the_shell_left_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    found = ForgetOptions(output_dir="~/out", model="~/model", forget="~/rows.txt", retain="~/photos")
    assert (found.output_dir, found.model) == ("/home/ann/out", "/home/ann/model")
    assert (found.forget, found.retain) == ("/home/ann/rows.txt", "/home/ann/photos")


def test_what_is_no_text_is_no_request():
    with pytest.raises(ConfigError, match="forget=3 must be a text such as 'class=cat', not int"):
        is_request(3)


def test_a_list_to_forget_is_one_column_of_values_and_no_rows():
    assert as_given({"forget": ["class=cat", "class=dog"]}, ForgetOptions)["forget"] == "class=cat,dog"
    assert as_given({"forget": ["a/b", "c"], "steps": np.int64(5)}, ForgetOptions) == {"forget": "a/b,c", "steps": 5}
    with pytest.raises(ConfigError, match=r"forget=\[0, 1\]: rows are listed in a text file, one a line"):
        as_given({"forget": [0, 1]}, ForgetOptions)
