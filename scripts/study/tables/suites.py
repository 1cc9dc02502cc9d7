"""Which attacks a suite needs, as a table."""

from collections.abc import Mapping
from typing import Any

from hf_dtl.audit.suites import SUITES
from hf_dtl.audit.text_table import TextTable
from study.suites import exceeding


def suite_table(result: Mapping[str, Any]) -> TextTable:
    """Of each development model, what all attacks reach, and by how much they exceed each suite.

    Args:
        result: what `choose_suite` gives.
    """
    rows = []
    for model, budgets in result["models"].items():
        for budget, values in budgets.items():
            best = max(values, key=lambda attack: values[attack])
            over = [f"{exceeding(values, SUITES[name].attacks):+.1f}" for name in ("standard-1", "quick-1")]
            rows.append((model, budget, f"{values[best][1]:.3f}", f"`{best}`", *over))
    options = result["options"]
    run = {attack for budgets in result["models"].values() for values in budgets.values() for attack in values}
    left = {name: [a for a in SUITES[name].attacks if a not in run] for name in ("standard-1", "quick-1")}
    said = [f"of `{name}` {', '.join(f'`{a}`' for a in attacks)}" for name, attacks in left.items() if attacks]
    note = (
        f"PL accuracy of the best of {len(run)} attacks that were run, and by how many points it exceeds the best of "
        "a suite; chosen on one half of the validation images, measured on the other. Draws "
        f"{options['draws']}, training seed {options['seed']}." + f" Not run: {'; '.join(said)}." * bool(said)
    )
    columns = ("model", "images/class", "best", "by", "over standard-1", "over quick-1")
    return TextTable("The choice of the suites", columns, tuple(rows), (note,))
