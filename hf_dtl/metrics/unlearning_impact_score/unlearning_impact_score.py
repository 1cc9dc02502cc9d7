"""Unlearning Impact Score: how far unlearning missed its goal and hurt the rest."""

import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics import info
from hf_dtl.metrics.scores import impact_of_unlearning

ACCURACIES = ("original_test", "unlearned_test", "unlearned_forget")


class UnlearningImpactScore(evaluate.Metric):
    """Relative loss of test accuracy, and distance of the accuracy on forgotten images from its goal."""

    def _info(self):
        return info("unlearning_impact_score", impact_of_unlearning.__doc__, dict.fromkeys(ACCURACIES, "float64"))

    def compute(self, **values):
        """Compute the score of the accuracies given here, or of those added task by task."""
        unknown = values.keys() - {*ACCURACIES, "goal", "original_forget"}
        missing = set(ACCURACIES) - values.keys()
        if unknown:
            raise ConfigError(f"Unknown arguments {', '.join(sorted(unknown))}; see the documentation of compute.")
        if not missing:
            return impact_of_unlearning(**values)
        if len(missing) < len(ACCURACIES) or self.writer is None:
            raise ConfigError(f"Accuracies are missing: {', '.join(sorted(missing))}.")
        return super().compute(**values)

    def _compute(self, original_test, unlearned_test, unlearned_forget, **options):
        return impact_of_unlearning(original_test, unlearned_test, unlearned_forget, **options)
