"""Metrics for `evaluate`: each folder here holds a script, a README and a page, so it is a Space as it stands.

`evaluate.load(hf_dtl.metrics.path("piggyback_accuracy"))` loads one by path, with no set-up, and
`evaluate.load("piggyback_accuracy")` by bare name, from any folder, after `python -m hf_dtl.metrics install`.
"""

from pathlib import Path

from hf_dtl.errors import ConfigError

NAMES = ("piggyback_accuracy", "unlearning_impact_score", "tug_of_war")

__all__ = ["NAMES", "path"]


def path(name: str) -> str:
    """Return the folder of a metric, as `evaluate.load` takes it.

    Args:
        name: one of `NAMES`.

    Raises:
        ConfigError: there is no such metric.

    Example:
        >>> Path(path("tug_of_war")).name
        'tug_of_war'
    """
    if name not in NAMES:
        raise ConfigError(f"There is no metric {name!r}; there are: {', '.join(NAMES)}.")
    return str(Path(__file__).parent / name)
