"""Metrics for `evaluate`: each folder here holds a script, a README and a page, so it is a Space as it stands.

`evaluate.load(hf_dtl.metrics.path("piggyback_accuracy"))` loads one by path, with no set-up, and
`evaluate.load("piggyback_accuracy")` by bare name, from any folder, after `python -m hf_dtl.metrics install`.
"""

import re
from pathlib import Path
from typing import Any

from hf_dtl.errors import ConfigError

NAMES = ("piggyback_accuracy", "unlearning_impact_score", "tug_of_war")

__all__ = ["NAMES", "info", "path"]


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


def info(name: str, inputs: str, features: dict[str, str]) -> Any:
    """Tell `evaluate` what a metric is, in the words of its README: what it is, and whom to cite.

    Args:
        name: one of `NAMES`.
        inputs: what `compute` takes and gives.
        features: type by name of what can be added value by value.

    Returns:
        An `evaluate.MetricInfo`.
    """
    import datasets
    import evaluate

    readme = (Path(path(name)) / "README.md").read_text(encoding="utf-8")
    citation = re.findall(r"```bibtex\n(.*?)```", readme, re.DOTALL)[0]
    return evaluate.MetricInfo(
        description=re.findall(r"## What it is\n(.*?)\n## ", readme, re.DOTALL)[0],
        citation=citation,
        inputs_description=inputs,
        features=datasets.Features({feature: datasets.Value(kind) for feature, kind in features.items()}),
        reference_urls=[f"https://arxiv.org/abs/{number}" for number in re.findall(r"arXiv:(\d+\.\d+)", citation)],
    )
