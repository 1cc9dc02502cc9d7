"""One backbone, one head per task: split any Hub image classifier at its classifier, and put it back together."""

import copy
import json
import logging
import re
from collections.abc import ItemsView, Sequence, ValuesView
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from hf_dtl.errors import ModelError
from hf_dtl.models.adapters import merge_adapters
from hf_dtl.models.classifiers import HALF, drop_caches, locate_classifiers, put_head, take_head
from hf_dtl.models.labels import head_names

MULTI_LABEL = "multi_label_classification"

logger = logging.getLogger(__name__)


class Heads(nn.ModuleDict):
    """Linear heads by task: a `ModuleDict` whose values are known."""

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> nn.Linear: ...
        def items(self) -> ItemsView[str, nn.Linear]: ...
        def values(self) -> ValuesView[nn.Linear]: ...


class MultiHeadClassifier(nn.Module):
    """A Hub backbone with one linear head per task.

    *Features* are what enters the final classifier module of the Hub model: a tensor of shape (batch, features).
    The backbone is the Hub model itself with its classifier replaced by the identity, so every architecture that
    `AutoModelForImageClassification` knows works unchanged. Of two classifiers whose mean the logits are (distilled
    DeiT and LeViT), the features are what enters both, one beside the other, and the head is one.

    Args:
        model: the Hub classifier. It becomes the backbone (it is changed in place, not copied), in single precision
            where its weights have half of it.
        task: name of the task that its present classifier solves.

    Raises:
        ModelError: see `locate_classifiers`; the head has one label, or rows without a name; or the task name is not
            an identifier.

    Example:
        >>> import torch
        >>> from transformers import AutoModelForImageClassification, ViTConfig
        >>> config = ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        ...                    image_size=8, patch_size=4, num_labels=3)
        >>> model = MultiHeadClassifier(AutoModelForImageClassification.from_config(config), task="source")
        >>> model.add_head("target", ["cat", "dog"])
        >>> model(torch.zeros(1, 3, 8, 8), task="target").shape
        torch.Size([1, 2])
    """

    def __init__(self, model: PreTrainedModel, task: str = "default"):
        super().__init__()
        if not isinstance(model, PreTrainedModel):
            raise ModelError(
                f"Expected a Hub model (a transformers PreTrainedModel), got {type(model).__name__}. "
                "Load one with `AutoModelForImageClassification.from_pretrained`; of a PeftModel give what its "
                "`merge_and_unload()` returns."
            )
        if merge_adapters(model):
            logger.warning("The adapters of %s were merged into its weights.", type(model).__name__)
        single_precision(model)
        self.classifier_paths = locate_classifiers(model)
        classifier = take_head(model, self.classifier_paths)
        drop_caches(model)
        self.backbone = model
        self.heads = Heads()
        self.labels: dict[str, tuple[str, ...]] = {}  # task -> names of its classes; none for a regression task
        self.multi_label: set[str] = set()
        """Tasks whose head says of each label whether it holds, by a sigmoid, and not which one holds."""
        self._attention = model.config._attn_implementation
        self._plain_kernels = False
        id2label: dict = model.config.id2label or {}
        rows = classifier.out_features
        regression = model.config.problem_type == "regression" and rows == 1
        if not regression and len(id2label) < rows:
            raise ModelError(
                f"The head of {type(model).__name__} has {rows} rows, and id2label names {len(id2label)}. Write all "
                "names into id2label, and their number into num_labels, of its config.json."
            )
        labels = () if regression else head_names(model)[:rows]
        self._register(task, labels, classifier)
        if model.config.problem_type == MULTI_LABEL:
            self.multi_label.add(task)

    def _register(self, task: str, labels: Sequence[str], head: nn.Linear) -> None:
        if not re.fullmatch(r"[A-Za-z_]\w*", task) or task in self.heads or hasattr(nn.ModuleDict, task):
            raise ModelError(
                f"Task name {task!r} cannot be used: it must be a new identifier (letters, digits and _); "
                f"present tasks: {', '.join(self.heads) or 'none'}."
            )
        if len(labels) == 1:
            raise ModelError(
                f"The head of {task!r} has one label, {labels[0]!r}: it answers that for every image, so there is "
                "nothing to forget or to attack. Use a head with a label for the other images too."
            )
        self.heads[task] = head
        self.labels[task] = tuple(str(label) for label in labels)

    @property
    def num_features(self) -> int:
        """Width of the features."""
        return next(iter(self.heads.values())).in_features

    def add_head(self, task: str, labels: Sequence[str], *, multi_label: bool = False) -> None:
        """Add a new, randomly initialised head (truncated normal of deviation 0.02, no bias) for `labels`.

        Raises:
            ModelError: the labels are no list of names, or name one twice.
        """
        if isinstance(labels, str) or len(set(map(str, labels))) < len(labels):
            raise ModelError(f"The labels of {task!r} are {labels!r}: give a list of names, each once.")
        like = next(iter(self.heads.values())).weight
        head = nn.Linear(self.num_features, len(labels) or 1, device=like.device, dtype=like.dtype)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self._register(task, labels, head)
        if multi_label:
            self.multi_label.add(task)

    def add_regression_head(self, task: str) -> None:
        """Add a new head with one output, initialised as in `add_head`; its task has no labels."""
        self.add_head(task, ())

    def is_regression(self, task: str) -> bool:
        """Whether the head of `task` gives one number instead of logits."""
        self.check_task(task)
        return not self.labels[task]

    def remove_head(self, task: str) -> None:
        """Drop the head of `task` for good."""
        self.check_task(task)
        if len(self.heads) == 1:
            raise ModelError(f"{task!r} is the only task left; a model needs one head.")
        del self.heads[task], self.labels[task]
        self.multi_label.discard(task)

    def check_task(self, task: str) -> None:
        """Refuse a task that the model does not have."""
        if task not in self.heads:
            raise ModelError(
                f"The model has no task {task!r}; its tasks are: {', '.join(self.heads)}. A trainer's config says by "
                "which head it forgets and which it keeps: forget_task=..., retain_task=... (one may be both)."
            )

    def features(self, pixel_values: Tensor) -> Tensor:
        """Compute what enters the classifier.

        Args:
            pixel_values: (batch, channels, height, width), as the model's processor gives them.

        Returns:
            (batch, features).
        """
        with self._differentiable():
            return self.backbone(pixel_values=pixel_values).logits

    def hidden_states(self, pixel_values: Tensor) -> tuple[list[Tensor], Tensor]:
        """Compute what every stage of the backbone gives, from the embedding on, and the features.

        Args:
            pixel_values: (batch, channels, height, width).

        Returns:
            One tensor a depth, (batch, tokens, width) or (batch, channels, height, width), as the Hub model's
            `hidden_states`; and the features (batch, features).

        Raises:
            ModelError: the backbone does not give its hidden states.
        """
        with self._differentiable():
            output = self.backbone(pixel_values=pixel_values, output_hidden_states=True)
        if not output.get("hidden_states"):
            raise ModelError(f"{type(self.backbone).__name__} gives no hidden states; use another method or model.")
        return list(output.hidden_states), output.logits

    def forward(self, pixel_values: Tensor, task: str | None = None) -> Tensor | dict[str, Tensor]:
        """Compute the logits (batch, labels) of `task`, or of every task in a dictionary when `task` is None.

        A regression head gives (batch, 1).
        """
        if task is not None:
            self.check_task(task)
            return self.heads[task](self.features(pixel_values))
        features = self.features(pixel_values)
        return {name: head(features) for name, head in self.heads.items()}

    def use_eager_attention(self) -> None:
        """Switch to attention that can be differentiated twice (fused kernels have no second derivative)."""
        if self.backbone.config.model_type == "timm_wrapper":  # it chooses its kernels itself
            self._plain_kernels = True
        elif self._attention not in (None, "eager"):
            self.backbone.set_attn_implementation("eager")

    def _differentiable(self) -> AbstractContextManager:
        return sdpa_kernel(SDPBackend.MATH) if self._plain_kernels else nullcontext()

    def activation_checkpointing_enable(self, **kwargs) -> None:
        """Enable activation checkpointing of the backbone (called by `transformers.Trainer`)."""
        self.backbone.activation_checkpointing_enable(**kwargs)

    def export(self, task: str) -> PreTrainedModel:
        """Give back a plain Hub model for one task: a copy that holds this task's head and no other.

        Args:
            task: the task to keep.

        Returns:
            A model of the backbone's own class, with this task's labels (for a regression head the task's name and
            the `problem_type` "regression"), on the CPU, whose saved folder
            `AutoModelForImageClassification.from_pretrained` loads without custom code.
        """
        self.check_task(task)
        model: Any = copy.deepcopy(self.backbone)
        merge_adapters(model)
        put_head(model, self.classifier_paths, self.heads[task])
        if self._attention not in (None, "eager"):
            model.set_attn_implementation(self._attention)
        regression = self.is_regression(task)
        labels = (task,) if regression else self.labels[task]
        for name in ("label_names", "label_descriptions"):  # timm's, which would go on naming the old labels
            vars(model.config).pop(name, None)
        model.config.num_labels = len(labels)  # PVT's is a number of its own
        model.config.id2label = dict(enumerate(labels))
        model.config.label2id = {label: i for i, label in enumerate(labels)}
        model.config.architectures = [type(model).__name__]
        kind = MULTI_LABEL if task in self.multi_label else "single_label_classification"
        model.config.problem_type = "regression" if regression else kind
        # The name may be a local path, and the published model is no longer the model of that name.
        model.config._name_or_path = ""
        model.name_or_path = ""
        model.num_labels = len(labels)
        return model.requires_grad_(True).eval().cpu()

    def save(self, folder: str | Path) -> None:
        """Write backbone and EVERY head to `folder`, for local use only: it holds the task to be disposed of."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.export(next(iter(self.heads))).config.save_pretrained(folder)
        parts = ("backbone.", "heads.")  # and not what a trainer adds to the model it trains
        whole = copy.deepcopy(self)
        merge_adapters(whole)
        state = {name: value.contiguous() for name, value in whole.state_dict().items() if name.startswith(parts)}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "tasks.json").write_text(json.dumps(self.labels))

    @classmethod
    def load(cls, folder: str | Path) -> "MultiHeadClassifier":
        """Read what `save` wrote."""
        labels = json.loads((Path(folder) / "tasks.json").read_text())
        first, *others = labels
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model = cls(AutoModelForImageClassification.from_config(config), task=first)
        for task in others:
            model.add_head(task, labels[task])
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model


def single_precision(model: nn.Module) -> None:
    """Cast weights of half precision: small steps of training would round to nothing there."""
    half = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.dtype in HALF}
    if half:
        logger.warning("%s has weights in %s: they are used and saved in float32.", type(model).__name__, *half)
        model.float()
