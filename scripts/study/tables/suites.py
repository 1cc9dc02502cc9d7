"""Which attacks a suite needs, as a table."""

from collections.abc import Mapping
from typing import Any

from hf_dtl.audit.text_table import TextTable

FULL, SMALLER = "full-1", ("standard-1", "quick-1")


def suite_table(result: Mapping[str, Any]) -> TextTable:
    """Of each development model, what the largest suite reaches, and by how many points it exceeds each other one.

    Args:
        result: what `choose_suite` gives.
    """
    rows = []
    for model, budgets in result["models"].items():
        for budget, reached in budgets.items():
            best, _, most = reached[FULL]
            over = [f"{100 * (most - reached[name][2]):+.1f}" for name in SMALLER]
            rows.append((model, budget, f"{most:.3f}", f"`{best}`", *over))
    options = result["options"]
    note = (
        f"PL accuracy by {FULL}, and by how many points it exceeds that of a smaller suite; each chose its attack on "
        f"one half of the validation images, measured on the other. Draws {options['draws']}, training seed "
        f"{options['seed']}."
    )
    columns = ("model", "images/class", FULL, "by", *(f"over {name}" for name in SMALLER))
    return TextTable("The choice of the suites", columns, tuple(rows), (note,))
