"""What an honest run writes where its publisher could write freely is none of the forms that are refused."""

from dataclasses import asdict, fields, replace

import pytest
import torch
from audit_toys import report

from hf_dtl.audit.report import machine
from hf_dtl.errors import PublishError
from hf_dtl.hub.claims import IMITATED, SETTINGS, SPEC, check_claims, check_words
from hf_dtl.methods.by_name import own_fields
from hf_dtl.methods.registry import find_method, method_names
from hf_dtl.pipeline.audit_options import AuditOptions
from hf_dtl.pipeline.commands import command
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.scenarios.spec import ScenarioSpec

NOTES = (
    "Another architecture than the undisposed model: scrubbed, retrained. The leakage compares both.",
    "No attacks on retain images: the heads do not number the target classes alike.",
    "Membership inference: left out. There are 3 forgotten images; 10 are needed.",
    "UIS of the task case: left out, the original model scores 0 on it.",
    "Not run on the source task, for want of a published head with its classes or of retain images: lora.",
)


def with_settings(**settings):
    return replace(report(), settings=report().settings | settings)


def test_every_setting_and_spec_that_a_run_records_is_known():
    unrecorded = {"output_dir", "method", "goal", "save_steps", "resume"}
    for options in (ForgetOptions, AuditOptions):
        assert {f.name for f in fields(options)} - SETTINGS <= unrecorded
    assert {f.name for f in fields(ScenarioSpec)} <= SPEC


@pytest.mark.parametrize("note", NOTES)
def test_notes_of_a_run_are_none_of_the_reports_words(note):
    check_claims(with_settings(notes=[note]), ())


def test_options_of_every_method_and_this_machine_are_known():
    for name in method_names():
        config = find_method(name).config_class
        plain = {f.name: f.default for f in fields(config) if f.name in own_fields(config)}
        check_claims(replace(with_settings(disposal=plain), method=name), ())
    check_claims(replace(report(), machine=machine(torch.device("cpu")) | {"processes": 2}), ())


def test_commands_and_options_of_a_run_are_in_their_forms():
    options = ForgetOptions(
        forget="class=T-shirt/top,my cat", retain="./my photos[cat,it's]", model="org/vit-base", suite="standard-1",
        attacks=None, method="scrub:alpha=1e-3",
    )  # fmt: skip
    text = command("forget", asdict(options), options.plain(), processes=2)
    recorded = {k: v for k, v in options.recorded().items() if k != "method"}
    own = with_settings(**recorded | {"suite": "custom"}, command=text)  # as the toy's report was made
    check_claims(replace(own, spec={}, method="scrub:alpha=1e-3"), {"cat", "it's"})


@pytest.mark.parametrize(
    "text", ["Trained on the forgotten classes and others.", "Thanks to the leaky faucet.", "It holds 40 images.",
             "See the report for its leakage.", "a full 3 days", "Write to ann@example.org"],
)  # fmt: skip
def test_ordinary_words_are_none_of_the_reports(text):
    assert not IMITATED.search(text)
    check_words("", text)


@pytest.mark.parametrize("text", ["for\u200bgotten", "&#102;orgotten", "NOT-SHOWN", "leakage: 0.00", "it HOLDS"])
def test_words_of_the_report_are_found_however_they_are_written(text):
    with pytest.raises(PublishError, match="a word of the report"):
        check_words("Here", text)
