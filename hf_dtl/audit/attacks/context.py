"""What an attacker has: the published model, the attacked task, and what several attacks on them share."""

import copy
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property
from threading import Event, Lock
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_dtl.audit.attacks.attack import Unit
from hf_dtl.audit.attacks.networks import Trainable, new_head
from hf_dtl.audit.attacks.stack import FineTuning, Schedule, Stack, agree, prepare_for_vmap
from hf_dtl.audit.classifiers import LabelledImages, check_finite, check_forward, predict
from hf_dtl.audit.config import AttackConfig
from hf_dtl.audit.references import scratch_model
from hf_dtl.audit.task import AttackedTask, check_task, draw_images
from hf_dtl.errors import DataError, ModelError
from hf_dtl.functional import channel_scale, mean_and_scale
from hf_dtl.models.classifiers import locate_classifiers
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.models.labels import published_rows

Head = tuple[Tensor, Tensor]
Kept = TypeVar("Kept")
_BUILDING = Lock()
COLUMN_IMAGES = 100
"""Images by which the size of features is measured, with the statistics of a batch as in training."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Build networks one at a time, and leave the global random state, which they draw from, as it was."""
    with _BUILDING, torch.random.fork_rng(devices=[]):
        yield


def finite(values: Tensor) -> Tensor:
    """With 0 for what overflowed: a huge weight that nobody reads must not keep the rest from being read."""
    return values.nan_to_num(0.0, 0.0, 0.0)


def check_base(model: PreTrainedModel, base: PreTrainedModel) -> None:
    """Refuse public weights that no difference to the published ones can be taken of.

    Raises:
        ModelError: the architectures differ in more than the head, or a weight of the base is not finite.
    """
    check_finite(base, "the base model")
    heads = [tuple(f"{path}." for path in locate_classifiers(m)) for m in (model, base)]
    own, other = (
        {name: p.shape for name, p in m.named_parameters() if not name.startswith(head)}
        for m, head in zip((model, base), heads, strict=True)
    )
    if own != other:
        wrong = sorted(name for name in own.keys() | other.keys() if own.get(name) != other.get(name))
        raise ModelError(
            f"The base model ({type(base).__name__}) has another architecture than the attacked one "
            f"({type(model).__name__}): {len(wrong)} weights differ in shape, such as `{wrong[0]}`. Give the model "
            "that the owner started from, or none."
        )


class AttackContext:
    """The published model and the attacked task.

    Args:
        model: the published classifier; never changed. Weights in half precision are attacked in single precision.
        task: the attacked task.
        config: what the attacker may do.
        device: where to run; None means the model's own device.
        stop: when it is set, an attack ends with `Stopped` at its next step.
        base: the public weights that the owner started from, if there are such.

    Raises:
        ModelError: the weights are not finite, there is no exchangeable classifier, the images do not fit, or the base
            is of another architecture.
        DataError: a split is empty, labels are out of range, or there is one class only.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        task: AttackedTask,
        config: AttackConfig,
        device=None,
        stop: Event | None = None,
        base: PreTrainedModel | None = None,
    ):
        check_task(task)
        check_finite(model, "the attacked model")
        self.model, self.task, self.config, self.stop, self.base = model, task, config, stop, base
        self.num_classes = len(task.labels)
        self.device = torch.device(device) if device is not None else model.device
        self.heads = MultiHeadClassifier(copy.deepcopy(model), task="published").to(self.device).eval()
        self.heads.requires_grad_(False)
        self.dtype = self.heads.backbone.dtype
        self.rows = published_rows(model, len(self.published_head[0]), task.labels)
        self._networks: dict[str, Trainable] = {}
        self._together: dict[str, bool] = {}
        self._kept: dict[Hashable, Any] = {}
        self._values = 0
        check_forward(model, task.train.pixel_values, "The attacked model")
        if base is not None:
            check_base(model, base)
        if task.retain is not None:
            self._check_retain(task.retain)

    def _check_retain(self, retain: LabelledImages) -> None:
        classes, labels = len(self.published_head[0]), retain.labels
        if len(labels) == 0 or int(labels.min()) < 0 or int(labels.max()) >= classes:
            found = f"labels {int(labels.min())}..{int(labels.max())}" if len(labels) else "no image"
            raise DataError(
                f"Retain images need labels of the published head, 0..{classes - 1}; there are {found}. "
                "Number them as the published model does."
            )
        check_forward(self.model, retain.pixel_values, "The attacked model")

    # Images and features --------------------------------------------------------------------------------------

    def images(self, unit: Unit) -> tuple[Tensor, Tensor]:
        """The training images of an attack, and their labels."""
        train = self.task.train
        chosen = draw_images(train.labels, self.num_classes, unit.budget, unit.seed)
        return train.pixel_values[chosen].to(self.device, self.dtype), train.labels[chosen].to(self.device)

    def predict(self, classify: Callable[[Tensor], Tensor], pixel_values: Tensor) -> Tensor:
        """What `classify` gives for many images, on the attacker's device and in batches."""

        def on_device(batch: Tensor) -> Tensor:
            return classify(batch.to(self.device, self.dtype))

        return predict(on_device, pixel_values, self.config.eval_batch_size)

    def features(self, pixel_values: Tensor) -> Tensor:
        """Features (images, features) of the published backbone."""
        return finite(self.predict(self.heads.features, pixel_values))

    def split_features(self, split: LabelledImages) -> Tensor:
        """Features of the validation or test split, computed once for all linear probes."""
        return self.once(("features", id(split)), lambda: self.features(split.pixel_values))

    def once(self, key: Hashable, make: Callable[[], Kept], *, room: int | None = None) -> Kept:
        """What `make` gives, computed when it is first asked for under this key.

        Args:
            key: what it is.
            make: gives it; a list of tensors where there is a `room`.
            room: it is kept only as long as all that is kept so has at most so many values together; None keeps it.
        """
        if key in self._kept:
            return self._kept[key]
        made = make()
        size = sum(part.numel() for part in made) if room is not None and isinstance(made, list) else 0
        if room is None or self._values + size <= room:
            self._values += size
            self._kept[key] = made
        return made

    # Heads and networks ---------------------------------------------------------------------------------------

    @cached_property
    def published_head(self) -> Head:
        """Weight (published classes, features) and bias of the published head."""
        head = self.heads.heads["published"]
        assert isinstance(head, nn.Linear)
        return head.weight, head.bias if head.bias is not None else head.weight.new_zeros(head.out_features)

    def head(self, seed: int, from_published: bool) -> Head:
        """The head that an attack starts from: rows of the published one, or a new one by seed."""
        if from_published and self.rows is not None:
            weight, bias = self.published_head
            return weight[self.rows], bias[self.rows]
        return new_head(self.heads.num_features, self.num_classes, seed)

    def network(self, kind: str) -> Trainable:
        """The network that attacks of a kind train: `full`, `lora`, or `retain` (under the whole published head)."""
        if kind not in self._networks:
            classes = len(self.published_head[0]) if kind == "retain" else self.num_classes
            rank = self.config.lora_rank if kind == "lora" else None
            with undisturbed():
                self._networks[kind] = Trainable(self.heads, classes, rank).to(self.device)
        return self._networks[kind]

    def weights_of(self, model: PreTrainedModel) -> dict[str, Tensor]:
        """The weights of a model of the same architecture, without its head, by the names that attacks train."""
        with undisturbed():
            backbone = MultiHeadClassifier(copy.deepcopy(model), task="other").backbone
        return {f"model.backbone.{n}": p.detach().to(self.device, self.dtype) for n, p in backbone.named_parameters()}

    def fresh_weights(self, seed: int) -> dict[str, Tensor]:
        """Random weights as those that a training starts from, by seed; see `weights_of`."""
        with undisturbed():
            fresh = scratch_model(self.model, seed)
        return self.weights_of(fresh)

    def scale(self, kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Factors of what a network's attacks train, without which no weight is of another size than usual."""
        return self.network(kind).scale(state, self.sizes(kind), self.columns(kind))

    def sizes(self, kind: str) -> dict[str, float]:
        """Usual size of every tensor of a network."""

        def make() -> dict[str, float]:
            network = self.network(kind)
            with undisturbed():
                return network.sizes(self.model)

        return self.once(("sizes", kind), make)

    def columns(self, kind: str) -> Tensor:
        """Factors (features,) of a head's columns, without which features are of the usual size, which is 1."""

        @torch.no_grad()
        def make() -> Tensor:
            images = self.task.validation.pixel_values[:COLUMN_IMAGES].to(self.device, self.dtype)
            return channel_scale(mean_and_scale(self.network(kind).model.features(images))[1], 1.0)[0].to(self.dtype)

        return self.once(("columns", kind), make)

    def stack(
        self, kind: str, network: nn.Module, members: list[FineTuning], schedule: Schedule, bound: float | None
    ) -> Stack:
        """A stack that uses `vmap` where that gives the same losses and gradients as one network after another."""

        def build(together: bool, members: list[FineTuning]) -> Stack:
            return Stack(
                network, members, schedule=schedule, weight_decay=self.config.weight_decay, max_gradient_norm=bound,
                together=together, stop=self.stop,
            )  # fmt: skip

        if len(members) == 1 or self.config.max_stack == 1:
            return build(False, members)
        prepare_for_vmap(network)
        if kind not in self._together:
            try:
                self._together[kind] = agree(*(build(together, members[:2]) for together in (False, True)))
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                self._together[kind] = False
        return build(self._together[kind], members)
