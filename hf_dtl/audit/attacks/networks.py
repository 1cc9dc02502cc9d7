"""The networks that attacks train: a linear head on features, every weight of the model, or adapters in it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from math import log

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from hf_dtl.audit.references import scratch_model
from hf_dtl.functional import channel_scale
from hf_dtl.models.adapters import add_adapters
from hf_dtl.models.heads import MultiHeadClassifier

TASK = "attacked"
HEAD = (f"model.heads.{TASK}.weight", f"model.heads.{TASK}.bias")


def new_head(num_features: int, num_classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight (classes, features) and bias of a new head: truncated normal of deviation 0.02, no bias."""
    weight = torch.empty(num_classes, num_features)
    nn.init.trunc_normal_(weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    return weight, torch.zeros(num_classes)


class Trainable(nn.Module):
    """A copy of the published network under one head of the attacked task, and the tensors that an attack trains.

    Evaluation mode holds also while it is trained: dropout and stochastic depth only hurt with so few images. Batch
    normalisation takes its statistics from each training batch: published ones may not suit the attacked images, or
    may be damaged on purpose. In trials on a small ResNet this was stronger than fixed statistics, by 2 to 4 points
    from scratch and 1 to 2 pre-trained.

    Args:
        published: the published network; copied.
        num_classes: classes of the head.
        lora_rank: train adapters of this rank and the head (peft), or everything when None.

    Raises:
        ModelError: LoRA is wanted, and there is no layer for it.
    """

    def __init__(self, published: MultiHeadClassifier, num_classes: int, lora_rank: int | None = None):
        super().__init__()
        self.model = copy.deepcopy(published)
        self.model.add_head(TASK, [str(i) for i in range(num_classes)])
        for task in [task for task in self.model.heads if task != TASK]:
            self.model.remove_head(task)
        self.model.requires_grad_(lora_rank is None)
        self.adapters = add_adapters(self.model.backbone, lora_rank) if lora_rank is not None else []
        self.model.heads.requires_grad_(True)
        self.trained = {n: p.detach().clone() for n, p in self.named_parameters() if p.requires_grad}
        self.requires_grad_(False).eval()
        self._norms = [module for module in self.modules() if isinstance(module, _BatchNorm)]
        self._training_mode()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (images, classes)."""
        return self.model(pixel_values, task=TASK)

    def start(
        self, head: tuple[Tensor, Tensor], seed: int, weights: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The trained tensors at the start of an attack.

        Args:
            head: weight and bias of the head.
            seed: seed of fresh adapters.
            weights: values in place of the published ones, by name.
        """
        state = self.trained | (weights or {})
        generator = torch.Generator().manual_seed(seed)
        for name, value in self.trained.items() if self.adapters else ():
            if ".lora_" in name:
                # As in LoRA: the first factor random, the second zero, so that the function is the published one.
                fresh = torch.zeros(value.shape)
                if ".lora_A." in name:
                    nn.init.kaiming_uniform_(fresh, a=5**0.5, generator=generator)
                state[name] = fresh.to(value)
        for name, value in zip(HEAD, head, strict=True):
            state[name] = value.to(self.trained[name])
        return state

    def sizes(self, published: PreTrainedModel) -> dict[str, float]:
        """Usual size of every tensor: the root mean square of a fresh one, or the middle one of its own entries.

        The latter where a fresh one is (nearly) zero, and of what no fresh network has.
        """
        fresh = dict(MultiHeadClassifier(scratch_model(published), task="fresh").backbone.named_parameters())
        found = {}
        for name, value in self.named_parameters():
            other = fresh.get(name.removeprefix("model.backbone.").replace(".base_layer.", "."))
            size = 0.0 if other is None else other.float().square().mean().sqrt().item()
            entries = value[value != 0].abs()
            found[name] = size if size > 1e-3 else entries.median().item() if len(entries) else 1.0
        return found

    def scale(self, state: dict[str, Tensor], sizes: dict[str, float], columns: Tensor) -> dict[str, Tensor]:
        """Factors of the trained tensors whose rows or columns are of another size than usual; see `channel_scale`.

        A bias goes with the rows of its weight, adapters with those and the columns of the weight they are for.

        Args:
            state: the trained tensors.
            sizes: see `sizes`.
            columns: factors (features,) of the columns of the head.
        """
        weights, found = dict(self.named_parameters()) | state, dict[str, Tensor]()
        for name, value in state.items():
            if name in HEAD:
                rows, across = value.new_ones(len(value)), columns if value.dim() > 1 else None
            else:
                rows, across = _factors(name, value, weights, sizes)
            if value.dim() < 2:
                factor = rows.reshape(value.shape)
            else:
                factor = rows[:, None] if across is None else rows[:, None] * across
            if (factor != 1).any():
                found[name] = factor.view(*factor.shape, *[1] * (value.dim() - factor.dim())).to(value)
        return found

    def _training_mode(self) -> None:
        """Let batch normalisation use each batch's own statistics, and leave its running ones alone."""
        for norm in self._norms:
            norm.train()
            norm.track_running_stats = False

    @contextmanager
    def evaluating(self, state: dict[str, Tensor], images: Tensor, batch_size: int) -> Iterator[None]:
        """Hold the tensors of a finished attack, and in batch normalisation the statistics of its training images."""
        with torch.no_grad():
            parameters = dict(self.named_parameters())
            for name, value in state.items():
                parameters[name].copy_(value)
            for norm in self._norms:
                norm.track_running_stats, norm.momentum = True, None
                norm.reset_running_stats()
            if self._norms:
                for batch in images.tensor_split(-(-len(images) // batch_size)):
                    self(batch)
            for norm in self._norms:
                norm.eval()
        try:
            yield
        finally:
            self._training_mode()


def _factors(
    name: str, value: Tensor, weights: dict[str, Tensor], sizes: dict[str, float]
) -> tuple[Tensor, Tensor | None]:
    """Factors of the rows and of the columns of a trained tensor that is none of the head's; None: no columns."""
    layer, _, adapter = name.partition(".lora_")
    if adapter:
        whole = f"{layer}.base_layer.weight"
        rows, across = channel_scale(weights[whole], sizes[whole])
        return (value.new_ones(len(value)), across) if adapter.startswith("A") else (rows, None)
    whole = f"{name.removesuffix('bias')}weight"
    if whole not in weights:
        return channel_scale(value, sizes[name])
    rows, _ = channel_scale(weights[whole], sizes[whole])
    if not value.any():
        return rows, None

    def unlike(own: Tensor) -> Tensor:
        return (value / own).square().mean().sqrt().log().sub(log(sizes[whole])).abs()

    # What all rows share may have been meant for the columns, of which a bias has none.
    return min((rows, rows / rows.median()), key=unlike), None
