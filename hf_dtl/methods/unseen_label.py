"""Unseen labels, this project's own method: answer forgotten images as a model would that never saw them.

A retrained model answers forgotten images as it answers any held-out image: most of them right, some wrong, and which
ones can be foretold. So nothing is climbed. Kernel regression from retained images, on the representations of every
depth, says which forgotten images would be answered wrong and how (`hf_dtl.functional.held_out_answers`); the model
is taught these answers alone, beside retained images. Its steps are damped in the directions that retained inputs use
(`hf_dtl.functional.preconditioner`), the soft form of what projected-gradient unlearning forbids.
"""

import logging
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.functional import held_out_answers, preconditioner, unseen_labels
from hf_dtl.methods.random_label import RandomLabelConfig, RandomLabelTrainer
from hf_dtl.methods.registry import register_method
from hf_dtl.trainers import ScenarioKind, labels_of, option, refused
from hf_dtl.trainers.probes import read
from hf_dtl.trainers.projection import ProjectingTrainer
from hf_dtl.trainers.stopping import accuracy, fixed_sample

logger = logging.getLogger(__name__)

_BATCH = 64


@dataclass
class UnseenLabelConfig(RandomLabelConfig):
    """Options of unseen labels: those of `UnlearningConfig`, and these.

    Parameters that control which answers are taught:
        support, ridge, wrong_share, check_images.
    Parameters that control the steps:
        subspace_file, damping, max_damped_grad_norm, max_grad_norm (before damping).
    """

    adapts: ClassVar[bool] = False

    multi_label: ClassVar[bool] = False
    kinds: ClassVar[frozenset[ScenarioKind]] = frozenset({"part"})
    wants_layer_inputs: ClassVar[bool] = True

    support: int = option(500, "Retain images, drawn by the seed, that foretell the answers, >= 1.", low=1)
    ridge: float = option(0.1, "Ridge of that kernel regression, > 0.", above=0)
    wrong_share: float | None = option(
        None,
        "Share of the forget images to be answered wrong, 0..1; default: that of the held-out images (eval_dataset). "
        "Images of a class of which nothing is retained are all answered otherwise.",
        low=0,
        high=1,
    )
    check_images: int = option(512, "Most held-out images that wrong_share is measured on, >= 1.", low=1)
    subspace_file: str | None = option(
        None,
        "Moments of the layer inputs on ALL data that the model was trained on, as `save_subspace` of "
        "projected_gradient writes them; default: a pass over the retain images.",
    )
    damping: float = option(0.01, "Damping of steps where retained inputs are, > 0: smaller keeps more.", above=0)
    max_damped_grad_norm: float = option(
        0.5, "Bound on the norm of the gradient after it is damped, >= 0; 0: no bound.", low=0
    )
    max_grad_norm: float = 0.0
    learning_rate: float = 1.0
    optim: str = "sgd"


@register_method("unseen_label")
class UnseenLabelTrainer(ProjectingTrainer, RandomLabelTrainer):
    """Minimise CE(retain) + forget_weight * CE(f(x), y~) over the forget images that an unseeing model would miss.

    y~ is what it would answer instead. Weights of linear and convolutional layers move, all else stays bit-identical.

    Raises:
        ConfigError: forgotten and retained images are of different tasks, neither wrong_share nor an eval_dataset is
            given though classes are forgotten in part only, the model has one class, or the moments are another
            model's.
        ModelError: the backbone does not give its hidden states.
    """

    config_class = UnseenLabelConfig
    args: UnseenLabelConfig

    def prepare(self) -> None:
        args, streams = self.args, self.train_dataset
        if self.forget_task != self.retain_task:
            raise ConfigError(
                f"unseen_label answers forgotten images by retained images of the same task; these are of the tasks "
                f"{self.forget_task!r} and {self.retain_task!r}. Use representation_erasure to dispose of a task."
            )
        moments = self.retained_moments(args.subspace_file)
        with refused():
            basis = preconditioner(moments, args.damping)
        self.guard(basis)
        chosen, answers = self.unseen()
        self.train_dataset = args.streams(Subset(streams.forget, chosen.tolist()), streams.retain)
        self.wrong = answers

    def unseen(self) -> tuple[Tensor, Tensor]:
        """Positions of the forget images that would be answered wrong, ascending, and these answers, on the CPU."""
        args, forget, retain = self.args, self.train_dataset.forget, self.train_dataset.retain
        classes = self.model.heads[self.forget_task].out_features
        labels, known = torch.as_tensor(labels_of(forget)), labels_of(retain)
        count = min(args.support, len(known))
        support = np.random.default_rng(args.seed).permutation(len(known))[:count].tolist()
        told = self._readings(Subset(retain, support))
        asked = self._readings(forget)
        support_labels = torch.as_tensor(known[support], device=args.device)
        answers = held_out_answers(told, support_labels, asked, classes, ridge=args.ridge).cpu()
        gone = torch.as_tensor(~np.isin(labels.numpy(), known))
        answers[gone] = answers[gone].scatter(1, labels[gone, None], -torch.inf)
        wrong = int(gone.sum())
        if wrong < len(labels):
            wrong += round(self._wrong_share() * (len(labels) - wrong))
        if not wrong:
            wrong = 1
            logger.warning("Held-out images are answered without fault, so there is next to nothing to change.")
        with refused():
            chosen, other = unseen_labels(answers, labels, wrong)
        order = chosen.argsort()
        return chosen[order], other[order]

    def _wrong_share(self) -> float:
        args, held_out = self.args, self.eval_dataset
        if args.wrong_share is not None:
            return args.wrong_share
        if held_out is None or not size_of(held_out):
            raise ConfigError("Give held-out images of what is retained (eval_dataset), or wrong_share.")
        return 1 - accuracy(self, self.model, fixed_sample(held_out, args.check_images))

    @torch.no_grad()
    def _readings(self, images: Dataset) -> list[Tensor]:
        """What every depth gives of images, (images, width) each; each process looks at a share, all get the same."""
        args, found = self.args, list[Tensor]()
        starts = range(0, size_of(images), _BATCH)
        self.model.eval()
        for number, start in enumerate(starts):
            rows = range(start, min(start + _BATCH, size_of(images)))
            if number % args.world_size == args.process_index or not found:
                pixels, _ = self.load_rows(images, rows)
                own = read(*self.model.hidden_states(pixels))
                found = found or [torch.zeros(size_of(images), r.shape[1], device=args.device) for r in own]
            if number % args.world_size == args.process_index:
                for whole, part in zip(found, own, strict=True):
                    whole[rows.start : rows.stop] = part
        return [self.share.summed(whole) for whole in found]

    @torch.no_grad()
    def adjust_gradients(self) -> None:
        """Damp every gradient where retained inputs are."""
        weights = {name: layer.weight for name, layer in self._projected.items() if layer.weight.grad is not None}
        assert self.basis is not None
        for name, weight in weights.items():
            assert weight.grad is not None
            weight.grad = self.basis.project(name, weight.grad)
        norm = torch.nn.utils.get_total_norm([w.grad for w in weights.values() if w.grad is not None])
        self.record("damped_grad_norm", norm)
        if self.args.max_damped_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(weights.values(), self.args.max_damped_grad_norm, norm)

    def constrain(self) -> None:
        """Nothing is forbidden: the gradients were damped."""
