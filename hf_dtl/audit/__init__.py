"""The audit: attacks on published weights, and the report of what they found."""

from hf_dtl.audit.accuracy import LabelledImages, accuracy
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.leakage import AxisLeakage, PLAccuracy, Ratio, leakage
from hf_dtl.audit.piggyback import Attacker, AttackResult, piggyback_attack
from hf_dtl.audit.plots import plot_comparison, plot_piggyback
from hf_dtl.audit.references import scratch_model
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.run import run_audit
from hf_dtl.audit.store import AttackStore, PiggybackRecord
from hf_dtl.audit.tables import comparison_markdown, comparison_table, markdown_table, table
from hf_dtl.audit.task import AttackedTask

__all__ = [
    "AttackConfig",
    "AttackResult",
    "AttackStore",
    "AttackedTask",
    "Attacker",
    "AxisLeakage",
    "LabelledImages",
    "LeakageReport",
    "PLAccuracy",
    "PiggybackRecord",
    "Ratio",
    "accuracy",
    "comparison_markdown",
    "comparison_table",
    "leakage",
    "markdown_table",
    "piggyback_attack",
    "plot_comparison",
    "plot_piggyback",
    "run_audit",
    "scratch_model",
    "table",
]
