"""What every script shares: its help, and how it ends."""

import sys
from dataclasses import dataclass

import pytest
from transformers import HfArgumentParser

from hf_dtl.audit_options import AuditOptions
from hf_dtl.command_line import run_script
from hf_dtl.dtl import DTLOptions
from hf_dtl.errors import ConfigError
from hf_dtl.options import option
from hf_dtl.unlearn_options import UnlearnOptions
from hf_dtl.verify import VerifyOptions
from study.instances import InstanceStudyOptions
from study.main_job import StudyOptions
from study.tasks import TaskStudyOptions
from study.unlearning import ComparisonOptions

OPTIONS = [
    AuditOptions, ComparisonOptions, DTLOptions, InstanceStudyOptions, StudyOptions, TaskStudyOptions, UnlearnOptions,
    VerifyOptions,
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS)
def test_the_help_can_be_read(options):
    shown = HfArgumentParser(options).format_help()  # a lone % in a help text would end it with a traceback
    assert "--output_dir" in shown and "%%" not in shown


@dataclass
class Options:
    budget: int = option(5, "Images.")


def run(monkeypatch, *words, main=lambda options: None):
    monkeypatch.setattr(sys, "argv", ["script.py", *words])
    run_script(Options, main)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--bugdet", "3"), "There is no option '--bugdet'. Did you mean --budget? --help lists all options."),
        (("--zzz=1",), "There is no option '--zzz'. --help lists all options."),
        (("three",), "There is no argument 'three'. --help lists all options."),
    ],
)
def test_an_unknown_option_is_named_before_any_work(monkeypatch, capsys, words, said):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *words, main=lambda options: pytest.fail("it went on"))
    assert ended.value.code == 2 and capsys.readouterr().err == f"{said}\n"


def test_options_reach_the_work_and_errors_are_one_line(monkeypatch):
    seen = []
    run(monkeypatch, "--budget", "7", main=seen.append)
    assert seen == [Options(7)]

    def refuse(options):
        raise ConfigError("no")

    with pytest.raises(SystemExit, match="ConfigError: no"):
        run(monkeypatch, main=refuse)
