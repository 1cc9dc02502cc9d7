"""Multi-task unlearning: forget instances for all tasks of a shared backbone, or for some of them.

Source: Huang, Fang, Chen and Chen, arXiv 2605.19042, of which only the abstract could be read: this is a
**reconstruction**. Interference between tasks is met by a projection of the update, interference between instances by
orthogonalisation against retained gradients.
"""

import logging
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_dtl.errors import ConfigError
from hf_dtl.functional import GradientSubspace, wrong_labels
from hf_dtl.functional.layer_inputs import projectable
from hf_dtl.functional.pair_losses import pair_forgetting
from hf_dtl.functional.task_subspace import TaskSubspace, output_moments, task_subspace
from hf_dtl.methods.fine_tuning import FineTuneTrainer, NegGradPlusTrainer, RetrainTrainer
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig, Strategy
from hf_dtl.methods.pair_trainer import Outputs, PairTrainer
from hf_dtl.methods.random_label import SalUnTrainer
from hf_dtl.methods.registry import register_method
from hf_dtl.methods.retained_gradients import GradientSurgeryTrainer, RetainedGradientsTrainer
from hf_dtl.methods.scrub import ScrubTrainer
from hf_dtl.methods.task_pairs import PairSet
from hf_dtl.methods.task_stopping import PursueUntilUnseen
from hf_dtl.trainers import Chunk, UnlearningConfig, UnlearningTrainer, refused

logger = logging.getLogger(__name__)

_OFFSET = 7_368_787


@register_method("multitask")
class MultiTaskUnlearningTrainer(PairTrainer):
    """Forget (image, task) pairs of a model with one head a task, and keep all others.

    In partial mode an image to forget stays among what is retained for its other tasks. How is `args.strategy`, which
    gives the trainer that this class makes:

        interference_aware: bounded forgetting; its gradient is turned away from the retained ones
            (`orthogonalisation`), and the whole change since the given weights stays in the forgotten tasks' output
            directions and out of the untouched tasks' (`task_projection`), whatever the optimizer
        retrain, fine_tune, neg_grad_plus, scrub, salun: as the methods of these names, on pairs; retrain draws all
            heads anew, and the wrong value of a regression is that of some image that is retained
        pcgrad: neg_grad_plus with gradient surgery between tasks
        orthograd: neg_grad_plus orthogonal to the gradient of every retain image of the step

    Heads of tasks that no image is forgotten for stay bit-identical, except that retrain draws all anew. With
    `task_projection`, everything but linear and convolutional layers does too. Batch normalisation keeps its running
    statistics, except that retrain trains it as in `BatchStatisticsTrainer`.

    Args:
        model: its heads are the tasks.
        args: the options.
        dataset: all training images, items {"pixel_values", "labels": {task: value}}: see `task_pairs.read_labels`.
        forget: which pairs of them to forget: `full_task(rows)`, `partial_task(rows, tasks)`, a boolean table (images,
            tasks) in the order of the model's heads, or boolean columns by task.
        processing_class: the model's image processor; saved with the model.
        eval_dataset: held-out images, likewise, for the loss that `evaluate()` gives and for `forget_until`.
        **kwargs: passed on to `transformers.Trainer`.

    Raises:
        ConfigError: options that contradict each other or the environment.
        DataError: labels or pairs that cannot be used; see `task_pairs`.
        ModelError: the model has no heads by task, or one that does not fit its labels.
        DivergedError: a loss or gradient became non-finite during `train()`.
    """

    config_class: ClassVar[type[UnlearningConfig]] = MultiTaskUnlearningConfig

    def __new__(cls, model: Any, args: MultiTaskUnlearningConfig, *rest: Any, **kwargs: Any):
        return super().__new__(STRATEGIES[args.strategy])

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.args.forget_until == "unseen":
            self.add_callback(PursueUntilUnseen(self, self.args.check_every))

    def active_streams(self) -> tuple[bool, bool]:
        retains, forgets = super().active_streams()
        return retains or not self.pursued, forgets and bool(self.pursued)


class _InterferenceAware(MultiTaskUnlearningTrainer, RetainedGradientsTrainer):
    subspace: TaskSubspace | None = None
    """Directions of the layers' outputs that updates may use, with `task_projection`."""

    def prepare(self) -> None:
        if self.args.task_projection:
            self.subspace = self._task_subspace().to(self.args.device)
            layers = projectable(self.model).items()
            # layer of each parameter that is projected
            self._projected = {id(p): name for name, layer in layers for p in layer.parameters(recurse=False)}

    def _task_subspace(self) -> TaskSubspace:
        args, streams = self.args, self.train_dataset
        untouched = [task for task in self.tasks if task not in self.forgotten]
        with refused():
            found = self._output_moments(streams.forget, self.forgotten)
            kept = self._output_moments(streams.retain, untouched) if untouched else {}
            subspace = task_subspace(
                list(found.values()), list(kept.values()), criterion=args.criterion,
                forgotten_share=args.forgotten_share, untouched_share=args.untouched_share,
            )  # fmt: skip
        backbone = {name: v.shape[-1] for name, v in subspace.vectors.items() if not name.startswith("heads.")}
        if not any(backbone.values()):
            raise ConfigError(
                f"untouched_share={args.untouched_share} protects every direction of the backbone in which "
                f"{', '.join(self.forgotten)} could be forgotten. Lower it, or set task_projection=False."
            )
        logger.info("Output directions left to the update, by layer: %s", backbone)
        return subspace

    def _output_moments(self, pairs: PairSet, tasks: Sequence[str]) -> dict[str, GradientSubspace]:
        args = self.args
        drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(args.seed))[: args.subspace_images]

        def losses(batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            outputs = self.model(batch[0].requires_grad_())
            return {task: self.losses(task, outputs, batch[1]).sum() for task in tasks}

        self.model.eval()
        batches = self.batches(pairs, f"gradients of {', '.join(tasks)}", drawn.tolist())
        return output_moments(self.model, batches, losses, tasks, reduce=self.reduce)

    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        return super().trains(name, parameter) and (self.subspace is None or id(parameter) in self._projected)

    def forget_loss(self, outputs: Outputs, chunk: Chunk) -> Tensor:
        options = {"delta": self.args.delta, "entropy_weight": self.args.entropy_weight}
        losses = [
            pair_forgetting(outputs[task], self.column(task, chunk.labels), self.scales[task], **options)
            for task in self.pursued
        ]
        return self.over_pairs(losses, chunk.labels)

    def projected(self, parameter: Tensor, gradients: Tensor) -> Tensor:
        if self.subspace is None:
            return gradients
        return self.subspace.project(self._projected[id(parameter)], gradients, batch_dims=1)

    @torch.no_grad()
    def constrain(self) -> None:
        """Bring the whole change since the given weights back into what it may be."""
        if self.subspace is not None:
            for mine, given in zip(self.trained, self.initial_weights, strict=True):
                mine.copy_(given + self.subspace.project(self._projected[id(mine)], mine - given))


class _Retrain(MultiTaskUnlearningTrainer, RetrainTrainer, PairTrainer):
    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        return True

    def mix_in_fresh(self, alpha: float) -> None:
        """Also draw every head by the seed, as `add_head` would."""
        super().mix_in_fresh(alpha)
        generator = torch.Generator().manual_seed(self.args.seed + _OFFSET)
        with torch.no_grad():
            for head in self.model.heads.values():
                weight = torch.empty(head.weight.shape)
                head.weight.copy_(nn.init.trunc_normal_(weight, std=0.02, generator=generator))
                head.bias.zero_()


class _SalUn(MultiTaskUnlearningTrainer, SalUnTrainer, PairTrainer):
    def draw_wrong(self, generator: torch.Generator) -> Tensor:
        """One wrong label for every pair to forget: another class, or the value of some image that is retained."""
        wrong = self.train_dataset.forget.labels.clone()
        for task in self.forgotten:
            column = self.column(task, wrong)
            known = ~column.isnan()
            if self.scales[task] is None:
                with refused(f"Task {task!r}: ", "Use another strategy."):
                    drawn = wrong_labels(column[known].long(), self.model.heads[task].out_features, generator)
            else:
                kept = self.column(task, self.train_dataset.retain.labels)
                kept = kept[~kept.isnan()]
                if not len(kept):
                    raise ConfigError(
                        f"Task {task!r} keeps no image whose value could be a wrong one; use another strategy."
                    )
                drawn = kept[torch.randint(len(kept), (int(known.sum()),), generator=generator)]
            column[known] = drawn.float()  # a view of the table
        return wrong


def _of_pairs(method: type[UnlearningTrainer], pairs: type[PairTrainer] = PairTrainer) -> Any:
    """A method of one task as it is, on pairs."""
    return type(f"_{method.__name__}", (MultiTaskUnlearningTrainer, method, pairs), {})


STRATEGIES: dict[Strategy, type[MultiTaskUnlearningTrainer]] = {
    "interference_aware": _InterferenceAware,
    "retrain": _Retrain,
    "fine_tune": _of_pairs(FineTuneTrainer),
    "neg_grad_plus": _of_pairs(NegGradPlusTrainer),
    "scrub": _of_pairs(ScrubTrainer),
    "salun": _SalUn,
    "pcgrad": _of_pairs(NegGradPlusTrainer, GradientSurgeryTrainer),
    "orthograd": _of_pairs(NegGradPlusTrainer, RetainedGradientsTrainer),
}
