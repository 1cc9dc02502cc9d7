"""Checks of what a report holds: it may come from anybody, so every value is looked at before it is believed."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from hf_dtl.errors import DataError

MEMBERSHIP_SHARES = (
    "auc", "balanced_accuracy", "tpr_at_1_percent_fpr", "forget_member_rate", "held_out_member_rate",
)  # fmt: skip
KINDS = ("task", "part", "tasks")
_SPEC_KEYS = ("kind", "forget", "retain", "seed")
_WEIGHTS_FILE, _SHA256 = re.compile(r"[^/\\]+\.safetensors"), re.compile(r"[0-9a-f]{64}")
REPORT = "of a leakage report"


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a JSON value is a finite number in `low`..`high`; true and false are none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and low <= value <= high  # type: ignore[operator]


def check_number(value: object, name: str, of: str = REPORT, low: float = 0, high: float = 1) -> None:
    """Refuse what is no finite number in `low`..`high`."""
    if not is_number(value, low, high):
        raise DataError(f"`{name}` {of} must be in {low}..{high}, got {value!r}.")


def check_integer(value: object, name: str, of: str = REPORT, lowest: int | None = None) -> None:
    """Refuse what is no integer, or one below `lowest`."""
    if not isinstance(value, int) or isinstance(value, bool) or (lowest is not None and value < lowest):
        wanted = "an integer" if lowest is None else f"an integer from {lowest}"
        raise DataError(f"`{name}` {of} must be {wanted}, got {value!r}.")


def check_text(value: object, name: str, of: str = REPORT) -> None:
    """Refuse what is no text, or an empty one."""
    if not isinstance(value, str) or not value:
        raise DataError(f"`{name}` {of} must be a text, got {value!r}.")


def check_object(value: object, name: str, of: str = REPORT) -> dict[str, Any]:
    """Refuse what is no JSON object."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise DataError(f"`{name}` {of} must be an object, got {value!r}.")
    return value


def check_membership(rows: object) -> None:
    """Refuse rows that are not such as `asdict(MembershipResult)` gives."""
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"`membership` of a leakage report must be a list of objects, got {rows!r}.")
    for row in rows:
        for name in ("model", "attack"):
            check_text(row.get(name), name, f"in the row {row!r} of `membership`")
        for name, value in row.items():
            share = name in MEMBERSHIP_SHARES
            if value is None or is_number(value, *((0, 1) if share else ())) or (isinstance(value, str) and not share):
                continue
            wanted = "in 0..1" if share else "a text, a finite number"
            raise DataError(f"`{name}` in a row of `membership` must be {wanted} or null, got {value!r}.")


def check_weights(weights: object, tasks: Collection[str] = ()) -> None:
    """Refuse other keys than safetensors files, in the folder of a task where the model has several."""
    for name, value in check_object(weights, "weights").items():
        folder, slash, file = name.rpartition("/")
        if (slash and folder not in tasks) or not _WEIGHTS_FILE.fullmatch(file):
            where = f"in folders of the tasks {', '.join(tasks)}" if tasks else "without folders"
            raise DataError(f"`weights` of a leakage report names safetensors files {where}, got {name!r}.")
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            raise DataError(f"`weights.{name}` of a leakage report must be 64 hexadecimal digits, got {value!r}.")


def check_spec(spec: object) -> None:
    """Refuse a description of a scenario that is not flat, or from which none can be built."""
    if not check_object(spec, "spec"):
        return
    assert isinstance(spec, dict)
    missing = [name for name in _SPEC_KEYS if name not in spec]
    if missing or spec["kind"] not in KINDS:
        raise DataError(
            f"`spec` of a leakage report needs {', '.join(_SPEC_KEYS)}, the kind being one of {', '.join(KINDS)}; "
            f"it has the kind {spec.get('kind')!r} and lacks {', '.join(missing) or 'nothing'}."
        )
    check_integer(spec["seed"], "spec.seed")
    for name, value in spec.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if part is not None and not isinstance(part, (str, bool)) and not is_number(part):
                raise DataError(f"`spec.{name}` of a leakage report must be flat, got {value!r}.")


def check_suite(suite: object) -> None:
    """Refuse a suite without its name and hash; an empty one is not known."""
    if check_object(suite, "suite"):
        assert isinstance(suite, dict)
        if set(suite) != {"name", "hash"}:
            raise DataError(f"`suite` of a leakage report needs name and hash, got {', '.join(suite)}.")
        for name, value in suite.items():
            check_text(value, f"suite.{name}")
