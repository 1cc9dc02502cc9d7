"""Pictures of the leakage report, readable in colour, by colour-blind readers, and printed in grey."""

from hf_dtl.audit.plots.attacks import plot_attacks
from hf_dtl.audit.plots.effort import plot_effort
from hf_dtl.audit.plots.methods import plot_comparison
from hf_dtl.audit.plots.piggyback import plot_piggyback
from hf_dtl.audit.plots.tasks import plot_tasks

__all__ = ["plot_attacks", "plot_comparison", "plot_effort", "plot_piggyback", "plot_tasks"]
