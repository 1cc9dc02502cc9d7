"""What every script shares: its help, and how it ends."""

import pytest
from transformers import HfArgumentParser

from hf_dtl.audit_options import AuditOptions
from hf_dtl.dtl import DTLOptions
from hf_dtl.study import StudyOptions
from hf_dtl.study.unlearn_run import ComparisonOptions
from hf_dtl.unlearn_options import UnlearnOptions


@pytest.mark.parametrize("options", [AuditOptions, ComparisonOptions, DTLOptions, StudyOptions, UnlearnOptions])
def test_the_help_can_be_read(options):
    shown = HfArgumentParser(options).format_help()  # a lone % in a help text would end it with a traceback
    assert "--output_dir" in shown and "%%" not in shown
