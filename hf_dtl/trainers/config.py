"""Options that every unlearning method shares."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from torch.utils.data import Dataset
from transformers import TrainingArguments

from hf_dtl.data.images import size_of
from hf_dtl.errors import ConfigError
from hf_dtl.functional import Augmentation
from hf_dtl.trainers.learning_rates import DISPOSE, UNLEARN, VIT_B, rate
from hf_dtl.trainers.option_fields import check_options, inherit_options, option
from hf_dtl.trainers.request import Request, ScenarioKind
from hf_dtl.trainers.streams import Chunking, PairedStreams, labels_of

DISPOSAL = frozenset({"forget_weight", "max_forget_grad_norm"})
"""Options of the disposal loss."""
RETENTION = frozenset(
    {
        "retain_inputs",
        "retain_augmentation",
        "distillation_weight",
        "temperature",
        "target_ce_weight",
        "per_device_retain_batch_size",
    }
)
"""Options of the retention loss."""
_STEPS: dict[ScenarioKind, int] = {"task": 300, "part": 100, "tasks": 100}


@dataclass
class UnlearningConfig(TrainingArguments):
    """`transformers.TrainingArguments` with what disposal and retention add to it.

    The loss of a step is L_retain + forget_weight * L_forget. `per_device_train_batch_size` counts forget images; as
    many retain images come with them unless `per_device_retain_batch_size` says otherwise.

    Parameters that control the disposal:
        forget_weight, max_forget_grad_norm, num_chunks, chunking, forget_task, lora_rank.
    Parameters that control the retention:
        retain_inputs, retain_augmentation, distillation_weight, temperature, target_ce_weight,
        per_device_retain_batch_size, retain_task.

    Raises:
        ConfigError: a value out of range, or fp16, DeepSpeed, FSDP, `torch.compile` or `push_to_hub`, with what to use
            instead.
    """

    retains: ClassVar[bool] = True  # whether the method has a retention loss
    least_classes: ClassVar[int] = 1  # classes that the forget images must have
    kinds: ClassVar[frozenset[ScenarioKind]] = frozenset({"task", "part"})  # of requests that the method serves
    multi_label: ClassVar[bool] = False  # whether its losses are also those of heads of sigmoids
    adapts: ClassVar[bool] = True  # whether it can train adapters instead of weights
    wants_layer_inputs: ClassVar[bool] = False  # whether moments of the layer inputs spare it a pass over the data
    transfers: ClassVar[bool] = False  # whether it has a use for transfer images and public weights
    unused: ClassVar[frozenset[str]] = frozenset()  # options that it has no use for: they keep their defaults

    forget_weight: float = option(1.0, "Weight (lambda) of the disposal loss against the retention loss, >= 0.", low=0)
    max_forget_grad_norm: float = option(
        1.0,
        "Bound on the norm of the disposal gradient, before its weight and before retention is added; disposal losses "
        "are unbounded below. 0 switches the bound off.",
        low=0,
    )
    num_chunks: int = option(
        4, "Chunks that the forget images of one optimizer step form, over all processes together.", low=1
    )
    chunking: Chunking = option(
        "class",
        "How chunks are formed: 'class' (each chunk holds its own classes) or 'random' (each is drawn from all forget "
        "data).",
    )
    retain_inputs: Literal["target", "source", "both"] = option(
        "target",
        "Images on which the frozen original model is distilled: 'target', 'source' or 'both'. Distilling on source "
        "images keeps features of the source task.",
    )
    retain_augmentation: Augmentation = option(
        "affine",
        "Random transforms of the target images: 'none', 'affine' or 'affine_flip' (mirrored too). The frozen model "
        "names what it sees on the same images.",
    )
    distillation_weight: float = option(
        1.0, "Weight of the distillation from the frozen original model, >= 0. 0 leaves the cross-entropy.", low=0
    )
    temperature: float = option(2.0, "Temperature of the distillation, > 0.", above=0)
    lora_rank: int | None = option(
        None,
        "Train adapters of this rank in every linear layer (else every convolution) and the retained head, instead of "
        "every weight; what is saved has them merged. Default: every weight.",
        low=1,
    )
    target_ce_weight: float = option(
        1.0, "Weight of an additional cross-entropy on the retain images' labels, >= 0.", low=0
    )
    per_device_retain_batch_size: int | None = option(
        None, "Retain images a step and device; default: per_device_train_batch_size.", low=1
    )
    forget_task: str = option("source", "Head whose task is disposed of; it stays frozen.")
    retain_task: str = option("target", "Head whose task is kept and exported.")
    remove_unused_columns: bool = option(False, "Must stay False: the image columns are read by this library.")
    ddp_find_unused_parameters: bool | None = option(
        False, "Not needed: parameters without a gradient are frozen beforehand."
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        inherit_options(cls)

    def __post_init__(self):
        self._refuse_unsupported()
        for name in self.unused:
            setattr(self, name, getattr(type(self), name))
        check_options(self)  # before transformers' own checks fall over text
        if self.max_steps == 0 or not self.learning_rate > 0:
            found = "max_steps=0" if self.max_steps == 0 else f"learning_rate={self.learning_rate}"
            raise ConfigError(
                f"{found} trains nothing: give 1 step or more (--steps; -1: by epochs), and a rate above 0."
            )
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be >= 1.")
        super().__post_init__()
        if self.lora_rank is not None and not self.adapts:
            raise ConfigError(
                f"lora_rank={self.lora_rank}: {type(self).__name__} changes or protects the weights themselves, so it "
                "cannot train adapters. Leave it out, or use random_label or gradient_collision, for example."
            )
        self._check_together()
        if self.activation_checkpointing:
            # The reentrant kind cannot be differentiated through `torch.autograd.grad`.
            kwargs = self.activation_checkpointing_kwargs or {}
            self.activation_checkpointing_kwargs = {**kwargs, "use_reentrant": False}
        self.remove_unused_columns = False
        self.label_names = ["labels"]

    def _refuse_unsupported(self) -> None:
        for wanted, name, reason, remedy in (
            (self.fp16, "fp16", "its gradient scaler does not see `torch.autograd.grad`", "use bf16=True"),
            (self.deepspeed, "deepspeed", "it hides gradients from the disposal step", "use DDP (accelerate launch)"),
            (self.fsdp, "fsdp", "it has not been verified", "use DDP (accelerate launch)"),
            (self.torch_compile, "torch_compile", "it cannot be differentiated twice", "leave it off"),
            (self.label_smoothing_factor, "label_smoothing_factor", "methods have their own losses", "leave it at 0"),
            (self.data_seed is not None, "data_seed", "every draw follows the seed", "set seed"),
            (self.neftune_noise_alpha, "neftune_noise_alpha", "images have no word embeddings", "leave it out"),
            (
                self.train_sampling_strategy != "random",
                "train_sampling_strategy",
                "the trainer draws from two streams",
                "leave it at 'random'",
            ),
            (self.auto_find_batch_size, "auto_find_batch_size", "it would change the chunks", "set the batch size"),
            (
                self.push_to_hub,
                "push_to_hub",
                "checkpoints hold the head of the task to be forgotten",
                "audit what save_model() writes, and call trainer.push_to_hub(report=...)",
            ),
        ):
            if wanted:
                raise ConfigError(f"{name} is not supported: {reason}. Instead: {remedy}.")

        # `accelerate launch` hands its configuration over in the environment.
        for variable, allowed, remedy in (
            ("ACCELERATE_MIXED_PRECISION", ("no", "bf16"), "--mixed_precision bf16 or no"),
            ("ACCELERATE_DYNAMO_BACKEND", ("no",), "--dynamo_backend no: compiled code has no second derivative"),
            ("ACCELERATE_USE_DEEPSPEED", ("false",), "plain DDP (--multi_gpu)"),
            ("ACCELERATE_USE_FSDP", ("false",), "plain DDP (--multi_gpu)"),
        ):
            value = os.environ.get(variable, allowed[0]).lower()
            if value not in allowed:
                asked = f"{variable}={value}, which is not supported"
                raise ConfigError(f"The launcher asks for {asked}. Instead: use {remedy}.")

    def _check_together(self) -> None:
        if self.retains and not self.distillation_weight and not self.target_ce_weight:
            raise ConfigError(
                "distillation_weight=0 and target_ce_weight=0 leave nothing that retains; raise one of them."
            )
        parts = self.world_size * self.gradient_accumulation_steps
        forget_images = self.per_device_train_batch_size * parts
        if self.num_chunks % parts or forget_images % self.num_chunks:
            raise ConfigError(
                f"num_chunks={self.num_chunks} must be a multiple of processes x accumulation steps ({parts}) and "
                f"divide the {forget_images} forget images of an optimizer step (per_device_train_batch_size x "
                "processes x accumulation steps). Change num_chunks or the batch size."
            )

    @classmethod
    def for_request(cls, request: Request, user_options: Mapping[str, Any]) -> dict[str, Any]:
        """Choose options for a request: what the method would have where the user says nothing.

        Args:
            request: what is to be forgotten.
            user_options: options that the user sets; these are left out of what is returned.

        Returns:
            Options by name: steps, batch, chunks, learning rate, and what else depends on the request.
        """
        chosen: dict[str, Any] = {
            "per_device_train_batch_size": request.batch_size // request.processes,
            "max_steps": _STEPS[request.kind],
            "learning_rate": cls._rate(request),
            **cls._chunks(request),
        }
        if request.kind == "task":
            chosen |= {"lr_scheduler_type": "cosine", "warmup_steps": 0.1}
        if cls.wants_layer_inputs and request.layer_inputs is not None:
            chosen["subspace_file"] = str(request.layer_inputs)
        return {name: value for name, value in chosen.items() if name not in user_options}

    @classmethod
    def _rate(cls, request: Request) -> float:
        """The method's own rate, where it has one and not a whole task is disposed of, else one by model size."""
        own = cls.learning_rate
        if request.kind != "task" and own not in (None, TrainingArguments.learning_rate):
            return own
        parameters = (0 if request.small else VIT_B) if request.parameters is None else request.parameters
        return rate(DISPOSE if request.kind == "task" else UNLEARN, parameters)

    @classmethod
    def _chunks(cls, request: Request) -> dict[str, Any]:
        """Chunks that classes, batch and processes allow; the config checks what a user asks for."""
        processes, own = request.processes, cls.num_chunks
        if own == 1:
            return {"num_chunks": processes}
        if request.kind == "task":
            fitting = [n for n in range(min(own, request.forget_classes), 1, -1)
                       if n % processes == 0 and request.batch_size % n == 0]  # fmt: skip
            return {"num_chunks": fitting[0] if fitting else max(2, processes)}
        if request.kind == "tasks":
            return {"num_chunks": processes if own % processes else own}
        return {"chunking": "random"} if cls.chunking == "class" and request.forget_classes < own else {}

    @property
    def gives_new_labels(self) -> bool:
        """Whether the method names images anew, as a request may say."""
        return False

    def streams(self, forget: Dataset, retain: Dataset) -> PairedStreams:
        """The forget and retain streams of these options.

        Raises:
            ConfigError: the forget images have fewer classes than the method needs; see also `PairedStreams`.
        """
        if self.least_classes > 1 and size_of(forget) and len(np.unique(labels_of(forget))) < self.least_classes:
            raise ConfigError(
                f"{type(self).__name__}: the method works through heads that tell the forgotten classes apart, so it "
                f"needs at least {self.least_classes}; these images are of one. Use projected_gradient, for example."
            )
        names = ("num_chunks", "chunk_size", "retain_chunk_size", "chunking", "seed")
        return PairedStreams(forget, retain, **{name: getattr(self, name) for name in names})

    @property
    def larger_chunks(self) -> str:
        """What to do where chunks are too small, for messages."""
        batch = f"per_device_train_batch_size ({self.per_device_train_batch_size})"
        return f"Raise {batch} or lower num_chunks ({self.num_chunks})."

    @property
    def chunks_per_batch(self) -> int:
        """Chunks of one process in one micro-batch."""
        return self.num_chunks // (self.world_size * self.gradient_accumulation_steps)

    @property
    def chunk_size(self) -> int:
        """Forget images a chunk."""
        return self.per_device_train_batch_size // self.chunks_per_batch

    @property
    def retain_chunk_size(self) -> int:
        """Retain images that come with one chunk, at least one."""
        images = self.per_device_retain_batch_size or self.per_device_train_batch_size
        return max(1, images // self.chunks_per_batch)


@dataclass
class WholeBatchConfig(UnlearningConfig):
    """Options of methods to which chunks mean nothing: those of `UnlearningConfig`, with other defaults.

    The forget images of a step are drawn from all of them alike, so that a single forgotten class will do, and nothing
    but `max_grad_norm` bounds the gradient.
    """

    max_forget_grad_norm: float = 0.0
    num_chunks: int = 1
    chunking: Chunking = "random"
