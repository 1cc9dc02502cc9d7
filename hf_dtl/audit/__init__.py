"""The audit: attacks on published weights, and the report of what they found."""

from hf_dtl.audit.accuracy import LabelledImages, accuracy
from hf_dtl.audit.comparison import comparison_markdown, comparison_table
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.leakage import AxisLeakage, PLAccuracy, Ratio, leakage
from hf_dtl.audit.membership import MembershipResult, membership_inference
from hf_dtl.audit.piggyback import Attacker, AttackResult, piggyback_attack
from hf_dtl.audit.plots import plot_attacks, plot_comparison, plot_piggyback
from hf_dtl.audit.recipes import ADAPTIVE, GRID
from hf_dtl.audit.references import scratch_model, scratch_models
from hf_dtl.audit.report import LeakageReport
from hf_dtl.audit.run import run_audit
from hf_dtl.audit.store import AttackStore, PiggybackRecord
from hf_dtl.audit.tables import markdown_table, table
from hf_dtl.audit.task import AttackedTask
from hf_dtl.audit.u_lira import shadow_splits, u_lira, u_lira_scores

__all__ = [
    "ADAPTIVE",
    "AttackConfig",
    "AttackResult",
    "AttackStore",
    "AttackedTask",
    "Attacker",
    "AxisLeakage",
    "GRID",
    "LabelledImages",
    "LeakageReport",
    "MembershipResult",
    "PLAccuracy",
    "PiggybackRecord",
    "Ratio",
    "accuracy",
    "comparison_markdown",
    "comparison_table",
    "leakage",
    "markdown_table",
    "membership_inference",
    "piggyback_attack",
    "plot_attacks",
    "plot_comparison",
    "plot_piggyback",
    "run_audit",
    "scratch_model",
    "scratch_models",
    "shadow_splits",
    "table",
    "u_lira",
    "u_lira_scores",
]
