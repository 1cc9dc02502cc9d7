"""Checks of what a report holds: it may come from anybody, so every value is looked at before it is believed."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from hf_dtl.errors import DataError
from hf_dtl.trainers.request import ScenarioKind

MEMBERSHIP_SHARES = (
    "auc", "balanced_accuracy", "tpr_at_1_percent_fpr", "forget_member_rate", "held_out_member_rate",
)  # fmt: skip
SCENARIO_KINDS = get_args(ScenarioKind)
_SPEC_KEYS = ("kind", "forget", "retain", "seed")
_AUDITED_FILE = re.compile(
    r"[^/\\]+\.safetensors|(preprocessor_|processor_)?config\.json|model\.safetensors\.index\.json"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
REPORT = "of a leakage report"
LARGEST = 2**32 - 1
"""Of every whole number: seeds of all libraries go so far, and no count is larger."""
MOST_TEXT = 50_000
"""Characters of one text, so that a stranger's report is read in seconds."""

_CHIP = (
    r"[A-Z]{0,3}\d{1,5}[A-Za-z]{0,3}|[A-Z]|NVIDIA|AMD|Tesla|GeForce|Quadro|TITAN|GRID|CMP|Jetson|Orin|Xavier|Thor|AGX|Nano|Spark"
    r"|RTX|GTX|GT|MX|RX|XT|XTX|GRE|VII|Ti|TI|SUPER|Super|Ada|Max|Design|with|Pascal|Blackwell|Hopper|Grace|Superchip|Server"
    r"|Workstation|Edition|Generation|Laptop|Mobile|Embedded|GPU|PCIe|PCIE|NVL|SXM|HBM|MIG|Instinct|Radeon|Pro|PRO|Vega"
    r"|Graphics|Device|Intel|Arc|Data|Center|TM|Apple|Ultra|Ascend|BE|Xp|NX|Black"
)
_BETWEEN = r"[ ./()-]{1,3}"
DEVICE = re.compile(
    rf"unknown|x86_64|AMD64|i[3-6]86|aarch64|arm64|armv\w{{1,3}}|ppc64le|s390x|riscv64|(?:{_CHIP})(?:{_BETWEEN}(?:{_CHIP})){{0,12}}\)?"
)
"""What a machine calculates with, in the words that makers have for it."""


def device_name(text: str) -> str:
    """A device's name without words that no maker is known for: whoever names a device may write there what he likes.

    Example:
        >>> device_name("NVIDIA H100 80GB HBM3"), device_name("NVIDIA H100 of Ann")
        ('NVIDIA H100 80GB HBM3', 'NVIDIA H100')
    """
    return text if DEVICE.fullmatch(text) else " ".join(w for w in text.split() if DEVICE.fullmatch(w)) or "unknown"


_FOLDERS = re.compile(r"(?P<before>^|[\s=,'\"])(?:file://)?(?:~\w*|[A-Za-z]:|\.{1,2})?[/\\](?:[^/\\\s\[\]]+[/\\])*")
# Of classes that a data set or a request names: a label may look like a path (/m/01g317, /r/aww).
_LABELS = re.compile(r"((?<=[^\s\[(=,'\"])\[[^\]]*\]|\bclass=[^\s'\"]*)")

Check = Callable[[object, str, str], None]
"""Refuses a value that is not right with a DataError; further arguments are its name, and what it is a part of."""


def read_json(text: str) -> Any:
    """Read JSON that means the same to every reader: no key twice, no NaN, no number beyond the finite ones.

    Raises:
        ValueError: the text is none; the message says why.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = Counter(key for key, _ in pairs)
            raise ValueError(
                f"the key {next(k for k, count in keys.items() if count > 1)!r} stands twice in one object"
            )
        return found

    def finite(text: str) -> float:
        if not math.isfinite(value := float(text)):
            raise ValueError(f"{text} is no finite number")
        return value

    try:
        return json.loads(text, object_pairs_hook=once, parse_float=finite, parse_constant=finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def strings(value: Any) -> Iterator[str]:
    """Every text in a JSON or YAML value, its keys among them."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from strings(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from strings(item)


def difference(told: Any, own: Any, place: str = "") -> str:
    """Where a JSON value is not as computed here, with both; empty where they agree (numbers to 1e-9)."""
    if isinstance(told, dict) and isinstance(own, dict):
        for key in dict.fromkeys((*own, *told)):
            if said := difference(told.get(key, "nothing"), own.get(key, "nothing"), f"{place}.{key}".strip(".")):
                return said
        return ""
    if isinstance(told, list) and isinstance(own, list) and len(told) == len(own):
        pairs = enumerate(zip(told, own, strict=True))
        return next((said for i, (a, b) in pairs if (said := difference(a, b, f"{place}[{i}]"))), "")
    same = math.isclose(told, own, abs_tol=1e-9) if is_number(told) and is_number(own) else told == own
    return "" if same and isinstance(told, bool) == isinstance(own, bool) else f"{place} {told!r}, not {own!r}"


def check_fields(instance: object, of: str, /, **checks: Check) -> None:
    """Check fields of `instance`, a part of what `of` says, in the given order.

    Raises:
        DataError: one is not right; the message names it, what it must be, and what it is.
    """
    for name, check in checks.items():
        check(getattr(instance, name), name, of)


def must_be(description: str, right: Callable[[Any], bool]) -> Check:
    """The check that a value is `right`; `description` says in words what it must be."""

    def check(value: object, name: str, of: str) -> None:
        if not right(value):
            raise DataError(f"`{name}` {of} must be {description}, got {value!r}.")

    return check


def is_number(value: object, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether a JSON value is a finite number in `low`..`high`; true and false are none."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return number and low <= value <= high  # type: ignore[operator]


def number(low: float, high: float = math.inf) -> Check:
    """A finite number in `low`..`high`."""
    return must_be(f"in {low}..{high}", lambda value: is_number(value, low, high))


def integer(lowest: int = -LARGEST, highest: int = LARGEST) -> Check:
    """An integer in `lowest`..`highest`."""
    return must_be(
        f"an integer in {lowest}..{highest}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest,
    )


def one_of(choices: Any) -> Check:
    """One of the values of a `Literal`."""
    return must_be(f"one of {', '.join(get_args(choices))}", lambda value: value in get_args(choices))


SHARE = number(0, 1)
FLAG = must_be("true or false", lambda value: isinstance(value, bool))
TEXT = must_be("a text", lambda value: isinstance(value, str) and bool(value))
OBJECT = must_be("an object", lambda value: isinstance(value, dict) and all(isinstance(key, str) for key in value))


def optional(check: Check) -> Check:
    """Null, or what `check` lets pass."""
    return lambda value, name, of: None if value is None else check(value, name, of)


def each(check: Check, *, keys: Sequence[str] = ()) -> Check:
    """An object of values that `check` lets pass, under the given keys or any."""

    def check_values(values: Any, name: str, of: str) -> None:
        OBJECT(values, name, of)
        if keys and set(values) != set(keys):
            raise DataError(f"`{name}` {of} needs {' and '.join(keys)}, got {', '.join(values) or 'none'}.")
        for key, value in values.items():
            check(value, f"{name}.{key}", of)

    return check_values


def membership_rows(models: Collection[str], tasks: Collection[str]) -> Check:
    """Rows such as `asdict(MembershipResult)` gives, each attack on each of the `models` (and `tasks`) once."""
    known = {
        "model": (models, True), "attack": (("loss", "confidence", "u_lira"), True),
        "calibration": (("retain", "cross_validation", "shadow_models"), False), "task": (tasks, bool(tasks)),
    }  # fmt: skip
    checks = {name: optional(SHARE) for name in (*MEMBERSHIP_SHARES, "auc_noise")}
    checks |= {name: optional(integer(0)) for name in ("forget_images", "held_out_images", "shadow_models")}

    def check(rows: Any, name: str, of: str) -> None:
        if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Mapping) for row in rows):
            raise DataError(f"`{name}` {of} must be a list of objects, got {rows!r}.")
        for row in rows:
            where = f"in the row {str(row)[:200]} of `{name}`"
            if unknown := row.keys() - known.keys() - checks.keys():
                raise DataError(f"`{sorted(unknown)[0]}` {where} is no part of one: {', '.join((*known, *checks))}.")
            for key, (words, needed) in known.items():
                if row.get(key) not in ((*words,) if needed else (*words, None)):
                    raise DataError(f"`{key}` {where} must be one of {', '.join(words) or 'none'}.")
            for key, right in checks.items():
                right(row.get(key), key, where)
        keys = Counter(tuple(row.get(key) for key in known) for row in rows)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise DataError(f"`{name}` {of} has several rows of {twice!r}: each attack on a model has one.")

    return check


def weights_of(tasks: Collection[str]) -> Check:
    """Hashes of what was audited: of several `tasks` each file in the folder of one."""
    digits = must_be("64 hexadecimal digits", lambda value: isinstance(value, str) and bool(_SHA256.fullmatch(value)))

    def check(weights: Any, name: str, of: str) -> None:
        OBJECT(weights, name, of)
        for path in weights:
            folder, slash, file = path.rpartition("/")
            if (slash and folder not in tasks) or not _AUDITED_FILE.fullmatch(file):
                where = f"in folders of the tasks {', '.join(tasks)}" if tasks else "without folders"
                raise DataError(f"`{name}` {of} names safetensors files and their settings {where}, got {path!r}.")
        each(digits)(weights, name, of)

    return check


def scenario_spec(spec: Any, name: str, of: str) -> None:
    """A flat description from which a scenario can be built; an empty one is not known."""
    OBJECT(spec, name, of)
    if not spec:
        return
    missing = [key for key in _SPEC_KEYS if key not in spec]
    if missing or spec["kind"] not in SCENARIO_KINDS:
        raise DataError(
            f"`{name}` {of} needs {', '.join(_SPEC_KEYS)}, the kind being one of {', '.join(SCENARIO_KINDS)}; "
            f"it has the kind {spec.get('kind')!r} and lacks {', '.join(missing) or 'nothing'}."
        )
    integer()(spec["seed"], f"{name}.seed", of)
    for key, value in spec.items():
        for part in value if isinstance(value, (list, tuple)) else [value]:
            if part is not None and not isinstance(part, (str, bool)) and not is_number(part):
                raise DataError(f"`{name}.{key}` {of} must be flat, got {value!r}.")


def without_folders(value: Any) -> Any:
    """Cut every local path in a JSON value to its last part, so that a published file names no private folder.

    Example:
        >>> without_folders({"source": "/home/ann/photos[cat,T-shirt/top]", "model": "org/name"})
        {'source': 'photos[cat,T-shirt/top]', 'model': 'org/name'}
    """
    if isinstance(value, str):
        parts = _LABELS.split(value)
        parts[::2] = [_FOLDERS.sub(r"\g<before>", part) for part in parts[::2]]
        return "".join(parts)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    return value
