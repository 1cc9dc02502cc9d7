"""What the report says of one attack: the lines that a live attack is compared with."""

from statistics import fmean

from hf_dtl.audit import AttackConfig, LeakageReport
from hf_dtl.audit.attacks import find_attack
from hf_dtl.audit.text_table import MODELS

Lines = dict[str, float]


def lines(report: LeakageReport, attack: str, budget: int) -> Lines:
    """Mean accuracy over seeds of every model of the report under one attack at one budget, highest first."""
    found: dict[str, list[float]] = {}
    for record in report.piggyback:
        if (record.axis, record.attack, record.budget) == ("source_subset", attack, budget):
            found.setdefault(record.model, []).append(record.accuracy)
    means = {model: fmean(found[model]) for model in MODELS if model in found}
    return dict(sorted(means.items(), key=lambda entry: -entry[1]))


def reported(report: LeakageReport, which: str, attack: str, budget: int, seed: int) -> float | None:
    """The accuracy that the report gives for one attack on one model; None where it was not run."""
    for record in report.piggyback:
        own = (record.axis, record.model, record.attack, record.budget, record.seed)
        if own == ("source_subset", which, attack, budget, seed):
            return record.accuracy
    return None


def same_attacker(report: LeakageReport, config: AttackConfig, attack: str) -> bool:
    """Whether the report's attacker had the settings of the one here, as far as they decide this attack."""
    if find_attack(attack).steps(config, 1) == 0:  # in closed form: nothing to set
        return True
    audit = report.settings.get("audit")
    kind = "linear_probe" if attack == "linear_probe" else "full"
    names = [f"{kind}_learning_rates", "linear_probe_steps", "full_passes", "full_min_steps", "batch_size"]
    own = [list(v) if isinstance(v := getattr(config, name), tuple) else v for name in names]
    return isinstance(audit, dict) and [audit.get(name) for name in names] == own
