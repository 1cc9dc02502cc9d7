"""Unlearning Impact Score: how far unlearning missed its goal and hurt the rest."""

import datasets
import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics.scores import impact_of_unlearning

_DESCRIPTION = """
The Unlearning Impact Score (UIS) adds the relative loss of test accuracy to the distance of the accuracy on forgotten
images from its goal. Lower is better, 0 is ideal.
"""

_KWARGS_DESCRIPTION = """
Args:
    original_test: test accuracy before unlearning, in 0..1; one number, or a list of one a task.
    unlearned_test: test accuracy after unlearning.
    unlearned_forget: accuracy on the forget images after unlearning.
    goal: what was to be forgotten: "instances" (default), a "class", or nothing of this task ("untouched"); one for
        all tasks, or a list of one a task.
    original_forget: accuracy on the forget images before unlearning; only for the goal "untouched".

Returns:
    unlearning_impact_score: mean over tasks.
    per_task: score of each task.

Examples:
    >>> import hf_dtl.metrics
    >>> metric = evaluate.load(hf_dtl.metrics.path("unlearning_impact_score"))
    >>> metric.compute(original_test=0.5, unlearned_test=0.375, unlearned_forget=0.5)
    {'unlearning_impact_score': 0.125, 'per_task': [0.125]}
"""

_CITATION = """
@article{shamsian2025go,
    title={Go Beyond Your Means: Unlearning with Per-Sample Gradient Orthogonalization},
    author={Shamsian, Aviv and Shaar, Eitan and Navon, Aviv and Chechik, Gal and Fetaya, Ethan},
    journal={arXiv:2503.02312},
    year={2025}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class UnlearningImpactScore(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {
                    "original_test": datasets.Value("float64"),
                    "unlearned_test": datasets.Value("float64"),
                    "unlearned_forget": datasets.Value("float64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/2503.02312"],
        )

    def compute(self, **values):
        """Compute the score of the accuracies given here, or of those added task by task."""
        unknown = values.keys() - self.features.keys() - {"goal", "original_forget"}
        missing = self.features.keys() - values.keys()
        if unknown:
            raise ConfigError(f"Unknown arguments {', '.join(sorted(unknown))}; see the documentation of compute.")
        if not missing:
            return impact_of_unlearning(**values)
        if len(missing) < len(self.features) or self.writer is None:
            raise ConfigError(f"Accuracies are missing: {', '.join(sorted(missing))}.")
        return super().compute(**values)

    def _compute(self, original_test, unlearned_test, unlearned_forget, **options):
        return impact_of_unlearning(original_test, unlearned_test, unlearned_forget, **options)
