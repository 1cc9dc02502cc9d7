"""Tug-of-War: how like the retrained model an unlearned model behaves on every split at once."""

from collections.abc import Mapping

import datasets
import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics.scores import likeness_to_retrained

_DESCRIPTION = """
Tug-of-War (ToW) is the product over splits of 1 - |accuracy - accuracy of the retrained model|: 1 for a model that is
as accurate as the retrained one everywhere, lower for one that forgets too little, too much, or loses what it was to
keep. The average gap is the mean of the same differences.
"""

_KWARGS_DESCRIPTION = """
Args:
    accuracies: split -> accuracy of the unlearned model in 0..1, usually of forget, retain and test.
    retrained: the same of the model that was retrained without the forgotten data.

Returns:
    tug_of_war: in 0..1, 1 is ideal.
    average_gap: in 0..1, 0 is ideal.

Examples:
    >>> import hf_dtl.metrics
    >>> metric = evaluate.load(hf_dtl.metrics.path("tug_of_war"))
    >>> metric.compute(accuracies={"forget": 0.5, "test": 1.0}, retrained={"forget": 0.25, "test": 0.75})
    {'tug_of_war': 0.5625, 'average_gap': 0.25}
"""

_CITATION = """
@inproceedings{zhao2024what,
    title={What makes unlearning hard and what to do about it},
    author={Zhao, Kairan and Kurmanji, Meghdad and B{\\u{a}}rbulescu, George-Octavian and Triantafillou, Eleni and
        Triantafillou, Peter},
    booktitle={NeurIPS},
    year={2024},
    note={arXiv:2406.01257}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class TugOfWar(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"accuracies": datasets.Value("float64"), "retrained": datasets.Value("float64")}
            ),
            reference_urls=["https://arxiv.org/abs/2406.01257"],
        )

    def compute(self, *, accuracies=None, retrained=None):
        """Compute the metric of the accuracies given here, or of those added split by split."""
        if accuracies is None and retrained is None and self.writer is not None:
            return super().compute()
        if not isinstance(accuracies, Mapping) or not isinstance(retrained, Mapping):
            raise ConfigError(
                "accuracies and retrained must both map splits to numbers, such as {'forget': 0.1, 'retain': 0.9}; "
                f"got {accuracies!r} and {retrained!r}."
            )
        return likeness_to_retrained(accuracies, retrained)

    def _compute(self, accuracies, retrained):
        return likeness_to_retrained(dict(enumerate(accuracies)), dict(enumerate(retrained)))
