"""The networks that attacks train: a linear head on features, every weight of the model, or adapters in it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from hf_dtl.audit.references import scratch_model
from hf_dtl.models.adapters import add_adapters
from hf_dtl.models.heads import MultiHeadClassifier

TASK = "attacked"
HEAD = (f"heads.{TASK}.weight", f"heads.{TASK}.bias")


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
            state[f"model.{name}"] = value.to(self.trained[f"model.{name}"])
        return state

    def relative_scale(self, published: PreTrainedModel) -> dict[str, Tensor]:
        """Size of every trained tensor relative to that of a fresh one: its root mean square over the fresh one's.

        The bias of a normalisation layer, which is zero when fresh, is taken to be as large as its weight.
        """
        fresh = dict(MultiHeadClassifier(scratch_model(published), task="fresh").backbone.named_parameters())
        scale: dict[str, Tensor] = {}
        for name, value in self.trained.items():
            weight = f"{name.removesuffix('bias')}weight"
            measured = weight if weight in self.trained and self.trained[weight].dim() == 1 else name
            other = fresh.get(measured.removeprefix("model.backbone."))
            sizes = [t.float().square().mean().sqrt().item() if t is not None else 0.0
                     for t in (self.trained[measured], other)]  # fmt: skip
            scale[name] = torch.tensor(sizes[0] / sizes[1] if min(sizes) > 0 else 1.0, device=value.device)
        return scale

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
