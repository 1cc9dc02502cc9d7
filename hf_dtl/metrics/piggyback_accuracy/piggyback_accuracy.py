"""Piggyback learning accuracy: how well an attacker relearns a task from published weights."""

import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics import info
from hf_dtl.metrics.attack import attack_model
from hf_dtl.metrics.scores import share_right

INPUTS = f"""
Of a finished attack: {share_right.__doc__}
Of a model, instead: {attack_model.__doc__}"""


class PiggybackAccuracy(evaluate.Metric):
    """Accuracy of an attacker who takes published weights and learns from a few images what was to be forgotten."""

    def _info(self):
        return info("piggyback_accuracy", INPUTS, {"predictions": "int64", "references": "int64"})

    def compute(self, *, predictions=None, references=None, model=None, **attack):
        """Compute the metric of a finished attack, or attack a model."""
        finished = predictions is not None or references is not None or self.writer is not None
        if model is not None:
            if finished:
                raise ConfigError("Give predictions and references of a finished attack, or a model, not both.")
            return attack_model(model, **attack)
        if attack:
            raise ConfigError(f"{', '.join(attack)}: these are for the attack on a model. Give model= too.")
        if not finished:
            raise ConfigError(
                "Give predictions= and references= of a finished attack, or model=, train_dataset= and test_dataset=."
            )
        return super().compute(predictions=predictions, references=references)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one prediction and its reference."""
        self.add_batch(predictions=[prediction], references=[reference], **kwargs)

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add predictions and their references."""
        if predictions is None or references is None:
            missing = "predictions" if predictions is None else "references"
            raise ConfigError(f"{missing} are missing: an accuracy needs both.")
        share_right(predictions, references)
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def _compute(self, predictions, references):
        return {"piggyback_accuracy": share_right(predictions, references)}
