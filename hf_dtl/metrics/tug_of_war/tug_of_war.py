"""Tug-of-War: how like the retrained model an unlearned model behaves on every split at once."""

from collections.abc import Mapping

import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics import info
from hf_dtl.metrics.scores import likeness_to_retrained


class TugOfWar(evaluate.Metric):
    """Product over splits of 1 - |accuracy - accuracy of the retrained model|, and the mean of the differences."""

    def _info(self):
        return info("tug_of_war", likeness_to_retrained.__doc__, {"accuracies": "float64", "retrained": "float64"})

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
