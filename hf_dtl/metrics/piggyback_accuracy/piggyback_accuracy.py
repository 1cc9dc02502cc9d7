"""Piggyback learning accuracy: how well an attacker relearns a task from published weights."""

import datasets
import evaluate

from hf_dtl.errors import ConfigError
from hf_dtl.metrics.attack import attack_model
from hf_dtl.metrics.predictions import share_right

_DESCRIPTION = """
Piggyback learning (PL) accuracy is what an attacker reaches who takes published weights, attaches a new head, and
trains on a few images a class of the task that was to be forgotten. It is either the accuracy of a finished attack
(`predictions`, `references`), or the attacks are run here (`model`, `train_dataset`, `test_dataset`). Given the model
before disposal as well, it also says which share of the relearning advantage still leaks.
"""

_KWARGS_DESCRIPTION = """
Of a finished attack:
    predictions (list of int): classes that the attacker's model named on test images, from 0.
    references (list of int): their true classes, from 0.

Of a model, instead:
    model: a transformers PreTrainedModel, a Hub id or a folder (safetensors only, no remote code).
    train_dataset, test_dataset: the task that the attacker learns and is tested on: datasets.Dataset objects with
        an image and a label column, or objects with the tensors `pixel_values` and `labels`; or a whole task by name
        as train_dataset alone, such as "mnist[0,1,2]".
    validation_dataset: what the attacker tunes on; default: a fixed part of the training images.
    undisposed, scratch, retrained: references, as `model`; scratch may be True (random weights of the same
        architecture), which it is where undisposed is given.
    budgets, seeds, attacks and any other option of hf_dtl.AttackConfig: what the attacker may do.
    processor, labels, num_classes, image_column, label_column, axis, store, device, progress: see
        hf_dtl.metrics.attack.attack_model.

Returns:
    piggyback_accuracy: in 0..1. Of a model: the strongest attack at each budget, chosen on validation images; its test
        accuracy averaged over seeds and budgets.
    Of a model also: deviation (over seeds), slc_auc, chance, per_budget, attacks, references, and leakage where
        undisposed is given (1 leaks all, 0 leaks nothing).

Examples:
    >>> import hf_dtl.metrics
    >>> metric = evaluate.load(hf_dtl.metrics.path("piggyback_accuracy"))
    >>> metric.compute(predictions=[0, 1, 1, 2], references=[0, 1, 2, 2])
    {'piggyback_accuracy': 0.75}
"""

_CITATION = """
@inproceedings{koh2023disposable,
    title={Disposable Transfer Learning for Selective Source Task Unlearning},
    author={Koh, Seunghee and Shon, Hyounguk and Lee, Janghyeon and Hong, Hyeong Gwon and Kim, Junmo},
    booktitle={ICCV},
    year={2023},
    note={arXiv:2308.09971}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class PiggybackAccuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
            reference_urls=["https://arxiv.org/abs/2308.09971"],
        )

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
