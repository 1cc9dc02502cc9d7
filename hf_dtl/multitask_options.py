"""What a command line says about several tasks at once, and what cannot be said together with it."""

from collections.abc import Sequence
from typing import Any

from hf_dtl.errors import ConfigError
from hf_dtl.methods.registry import find_method

OWN = ("forget_tasks", "task_columns", "images")
"""Options that only several tasks have."""
_INSTEAD = {
    "goal": "instances to forget become like images never seen: leave it out",
    "retrained": "use --reference retrain",
    "label_column": "name the columns with --task_columns",
    "images_per_class": "use --images",
}
"""Options of one task alone, and what several have in their place."""


def several_tasks(methods: str) -> bool:
    """Whether a list of methods as a command line names it is for several tasks at once.

    Raises:
        ConfigError: some of them are and others are not.

    Example:
        >>> several_tasks("multitask,multitask:strategy=scrub"), several_tasks("salun")
        (True, False)
    """
    names = {part.strip().partition(":")[0] for part in methods.split(",") if part.strip()}
    others = sorted(name for name in names if "tasks" not in find_method(name).config_class.kinds)
    if others and len(others) < len(names):
        raise ConfigError(
            f"--methods {methods!r} names multitask, for several tasks at once, and {', '.join(others)}, for one. "
            "Start one command for each."
        )
    return bool(names) and not others


def check_for_tasks(options: Any) -> None:
    """Refuse options of several tasks where there is one, and of one task where there are several.

    Args:
        options: `UnlearnOptions`.

    Raises:
        ConfigError: the option does not belong to the methods.
    """
    if not options.multitask:
        for name in OWN:
            if getattr(options, name) is not None:
                raise ConfigError(
                    f"--{name} {getattr(options, name)} is for several tasks at once, --methods {options.methods} is "
                    "for one. Add --methods multitask, or leave it out."
                )
        return
    for name, instead in _INSTEAD.items():
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name} {getattr(options, name)} is for methods of one task; with --methods multitask {instead}."
            )
    if options.forget.partition("=")[0].strip() == "class":
        raise ConfigError(
            f"--forget {options.forget} is for one task; of several, say which images: random=5%, a file of row "
            "numbers, or column=value with a column that is no task."
        )


def split_names(text: str | None) -> list[str] | None:
    """Read names separated by commas, None for none given.

    Example:
        >>> split_names("letter, case")
        ['letter', 'case']
    """
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def task_columns(text: str | None) -> Sequence[str] | dict[str, str] | None:
    """Read `COLUMN,...` or `TASK=COLUMN,...`, as `load_multitask` takes it.

    Raises:
        ConfigError: a task is named twice.

    Example:
        >>> task_columns("letter,case"), task_columns("face=label,age")
        (['letter', 'case'], {'face': 'label', 'age': 'age'})
    """
    names = split_names(text)
    if names is None or not any("=" in name for name in names):
        return names
    pairs = [tuple(part.strip() for part in name.partition("=")) for name in names]
    found = {task: column or task for task, _, column in pairs}
    if len(found) < len(pairs):
        raise ConfigError(f"--task_columns {text!r} names a task twice.")
    return found
