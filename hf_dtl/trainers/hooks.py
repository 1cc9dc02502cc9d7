"""What `transformers.Trainer` lets a subclass override: it has its effect here too, or is refused."""

from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from hf_dtl.errors import ConfigError

_UNCALLED = {
    "training_step": ("compute_loss", "compute_loss_context_manager", "autocast_smart_context_manager"),
    "get_train_dataloader": ("_get_train_sampler",),
}
"""What calls a hook in `transformers.Trainer`, and does not in a trainer that has its own."""


def refuse_uncalled(kind: type[Trainer]) -> None:
    """Refuse a subclass of the user's whose hooks training would pass over.

    Raises:
        ConfigError: naming what is overridden and what to override instead.
    """
    if lost := [name for caller, hooks in _UNCALLED.items() for name in hooks if _own(kind, name)
                and not _own(kind, caller)]:  # fmt: skip
        raise ConfigError(
            f"{kind.__name__} overrides {', '.join(lost)}, which training does not call: it has two streams of images "
            "and a loss for each. Override retention (what is kept), forget_loss or chunk_loss (what is forgotten), "
            "or all of training_step and get_train_dataloader; give compute_metrics to measure something else."
        )


def _own(kind: type[Trainer], name: str) -> bool:
    """Whether the method of a class is neither of this library nor of transformers."""
    owner = next(one for one in kind.__mro__ if name in vars(one))
    return owner.__module__.partition(".")[0] not in ("hf_dtl", "transformers")


class Corrections(TrainerCallback):
    """Calls `adjust_gradients` before each step of the optimizer, whichever it is, and `constrain` after it."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first step, when there is an optimizer, whoever made it."""
        stepped: torch.optim.Optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])
        if not getattr(stepped, "_is_constrained", False):  # a second train() finds it again
            stepped.register_step_pre_hook(lambda *_: self.trainer.adjust_gradients())
            stepped.register_step_post_hook(lambda *_: self.trainer.constrain())
            stepped._is_constrained = True  # type: ignore[attr-defined]
