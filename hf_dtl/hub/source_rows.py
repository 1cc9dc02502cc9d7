"""Classes that a report names, and a head that must have none of what was to be forgotten."""

import re
from collections.abc import Mapping
from typing import Any

from hf_dtl.audit import LeakageReport
from hf_dtl.data.selection import DatasetSpec
from hf_dtl.errors import DataError, PublishError
from hf_dtl.hub.markdown import readings

_RANGE = re.compile(r"(\d+)\s*-\s*(\d+)")
_MOST = 100_000


def check_head(configs: Mapping[str, Mapping[str, Any]], report: LeakageReport) -> None:
    """Refuse the head of a model that was to forget a whole task if it has rows for that task.

    Args:
        configs: `config.json` by model.
        report: its `spec`, or its settings, name the classes to forget and to keep.

    Raises:
        PublishError: naming the classes, or how many rows there are too many.
    """
    if report.spec.get("kind", "part" if report.part else "task") != "task":
        return
    forget, retain = (classes_of(_told(report, *names)) for names in _NAMES[:2])
    like = [{look for name in forget for look in _looks(name, any_case)} for any_case in (False, True)]
    for config in configs.values():
        labels = [str(label) for label in (config.get("id2label") or {}).values()]
        named = not retain.isdisjoint(labels)  # and not by position
        left = [label for label in labels if label not in retain and _looks(label, named) & like[named]]
        if left or (retain and len(labels) > len(retain)):
            which = (
                f"the classes {', '.join(left[:5])} of the forgotten task" if left else "rows of no class that is kept"
            )
            raise PublishError(
                f"The head has {which}: {len(labels)} rows, {len(retain) or 'other'} classes were kept. Whoever has "
                "the forgotten task's head need not relearn it: export the kept task alone, and audit that."
            )


_NAMES = (("forget", "source_dataset"), ("retain", "target_dataset"), ("novel", "novel_dataset"))


def named_classes(report: LeakageReport) -> set[str]:
    """Classes that the report's data sets or request name: labels, whatever they look like."""
    texts = [text for names in _NAMES for text in (report.spec.get(names[0]), report.settings.get(names[1]))]
    found = {name for text in texts if isinstance(text, str) for name in _listed(text)}
    return found | {name.strip() for text in texts if isinstance(text, str) for name in _requested(text)}


def _looks(name: str, any_case: bool) -> set[str]:
    """A class as it is read; in any case only where the kept ones are named, for "a" may be kept and "A" forgotten."""
    return {(look.casefold() if any_case else look).strip() for look in readings(name)}


def _told(report: LeakageReport, name: str, setting: str) -> str:
    return str(report.spec.get(name) or report.settings.get(setting) or "")


def _requested(text: str) -> list[str]:
    name, equals, value = text.partition("=")
    return value.split(",") if equals and name.strip() == "class" else []


def _listed(text: str) -> tuple[str, ...]:
    try:
        return DatasetSpec.parse(text).classes or ()
    except DataError:
        return ()


def classes_of(text: str) -> set[str]:
    """The classes that a data set is asked for, by name or position."""
    found: set[str] = set()
    for name in _listed(text):
        ends = _RANGE.fullmatch(name.strip())
        low, high = (int(ends[1]), int(ends[2])) if ends else (0, -1)
        found |= set(map(str, range(low, min(high, low + _MOST) + 1))) if ends else {name.strip()}
    return found
