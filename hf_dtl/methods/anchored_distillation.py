"""Anchored distillation: a student that starts at public weights hears the given model through a channel alone.

Its weights are a function of the public weights (or of random ones), of the transfer images, and of what the given
model said about these: of hard labels a countable number of bits (`hf_dtl.functional.channel`). Forget images are not
looked at.

Source: the student from public weights is "Distillation Robustifies Unlearning", arXiv 2506.06278, with public weights
in the place of noise. Function matching (outputs): Beyer et al., "Knowledge distillation: A good teacher is patient
and consistent", arXiv 2106.05237. Hard labels, confidence and rounds: Xie et al., "Self-training with Noisy Student",
arXiv 1911.04252. The bottleneck of features and the count of bits are this library's.
"""

import json
from pathlib import Path
from typing import Any

import datasets
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_dtl.data.columns import find_image_column, images_beside
from hf_dtl.data.images import LazyImages, size_of
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.functional import distillation
from hf_dtl.functional.channel import channel_bound, hard_labels, parse_channel, rounded_outputs, targets_of
from hf_dtl.methods.anchored_distillation_config import AnchoredDistillationConfig
from hf_dtl.methods.noise_then_distil import fresh_model
from hf_dtl.methods.public_weights import load_base
from hf_dtl.methods.registry import register_method
from hf_dtl.methods.transfer_images import (
    TRANSFER,
    TransferImages,
    TransferLabels,
    Unlabelled,
    fingerprint_of,
    pictures,
    views_of,
)
from hf_dtl.models.heads import MultiHeadClassifier
from hf_dtl.trainers import (
    BatchStatisticsTrainer,
    UnlearningTrainer,
    labels_of,
)
from hf_dtl.trainers.items import items_of
from hf_dtl.trainers.saving import write_whole

NEARLY_ALL = 0.95
"""Share of one label at which a teacher says nothing."""
BOUND = "bound.json"
_VIEWS, _MIXUP = 7_368_787, 2_147_029
_BOTTLENECK = "bottleneck"


class _HearingTrainer(UnlearningTrainer):
    """An `UnlearningTrainer` whose retention loss is of what a teacher says through a channel."""

    args: AnchoredDistillationConfig
    targets: Tensor | None

    def retention(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        images = self.augment_retained(inputs["retain"]["pixel_values"], inputs["chunk"])
        if self.targets is not None:
            targets = self.targets[inputs["retain"]["labels"].flatten()]
            loss = -(targets * model(images, task=self.retain_task).float().log_softmax(-1)).sum(-1).mean()
        else:
            images = self._mixed(images, inputs["chunk"])
            said = self.teacher(images, task=self.retain_task).detach()
            if self.basis is None:
                loss = distillation(model(images, task=self.retain_task), said, self.args.temperature)
            else:
                own = model(images)
                loss = distillation(own[self.retain_task], said, self.args.temperature)
                wanted = (self.teacher.features(images).detach() - self.centre) @ self.basis
                loss = loss + F.mse_loss(own[_BOTTLENECK], wanted)
        self.record("retain_loss", loss)
        return loss

    basis: Tensor | None = None
    centre: Tensor

    def _mixed(self, images: Tensor, chunks: Tensor) -> Tensor:
        """Mixup inside each chunk, w ~ U(0, 1), by draws from its seed."""
        mixed = []
        for part, number in zip(images.chunk(len(chunks)), chunks.tolist(), strict=True):
            draw = torch.Generator().manual_seed((self.args.seed * 1_000_003 + number) ^ _MIXUP)
            share = torch.rand(len(part), 1, 1, 1, generator=draw).to(part)
            mixed.append(share * part + (1 - share) * part[torch.randperm(len(part), generator=draw).to(part.device)])
        return torch.cat(mixed)


@register_method("anchored_distillation")
class AnchoredDistillationTrainer(BatchStatisticsTrainer, _HearingTrainer):
    """A student from public or random weights learns what the given model says through a channel of counted bits.

    Args:
        model, args, forget_dataset, retain_dataset, **kwargs: see `UnlearningTrainer`. Forget images are only compared
            with the transfer images.
        transfer_dataset: images for the given model to name, as items {"pixel_values"} or a `datasets.Dataset`; None:
            views of the labelled ones.
        labels: what it said, where that is known; the given model is then not asked.

    Raises:
        ConfigError, DataError, ModelError: see `UnlearningTrainer`; and: transfer images that are to be forgotten, a
            given model that says nothing, a base of another architecture or size, or that is the given model.
    """

    config_class = AnchoredDistillationConfig

    def __init__(
        self,
        model: MultiHeadClassifier | PreTrainedModel,
        args: AnchoredDistillationConfig,
        forget_dataset: Dataset,
        retain_dataset: Dataset,
        *,
        transfer_dataset: Any = None,
        labels: TransferLabels | None = None,
        **kwargs: Any,
    ):
        self._given, self._said, self._forgotten = transfer_dataset, labels, forget_dataset
        super().__init__(model, args, forget_dataset, retain_dataset, **kwargs)

    # Before the first step ------------------------------------------------------------------------------------

    def prepare(self) -> None:
        super().prepare()
        args, labelled = self.args, self.train_dataset.retain
        self.kind, self.number = parse_channel(args.channel)
        rows = sorted(set(labels_of(labelled).tolist()))
        self.rows = torch.tensor(rows, device=args.device)
        """Of the head, that there are words for: no other class is ever named."""
        named = self._named(labelled)
        self.transfer = TransferImages(labelled, named)
        self.start()
        self.train_dataset = args.streams(self.transfer, self.transfer)
        self.targets, self.labels = None, self._said
        self._round = 0
        classes = len(self.model.labels[self.retain_task])
        if named is not None:
            if self.labels is not None:
                self._check_words(self.labels, named)
            else:
                logits = self.answers(self.teacher, named)
                self._check_answers(logits)
                if self._stored:
                    self.labels = self.words(logits, fingerprint_of(named))
        if self.kind == "features":
            self._open_bottleneck()
        if self._stored:
            true = F.one_hot(torch.as_tensor(labels_of(labelled)).long(), classes).float().to(args.device)
            self._true = true
            self.targets = true if self.labels is None else torch.cat([true, self.heard(self.labels)])

    def _named(self, labelled: Dataset) -> Dataset | None:
        """The images that the teacher speaks about."""
        args, given = self.args, self._given
        if given is None:
            if not self._stored:
                return None
            if not args.views:
                raise ConfigError(
                    f"channel={args.channel} with views=0 and no transfer images leaves nothing that the given model "
                    "could name: give transfer images, or raise views."
                )
            return views_of(labelled, args.views, args.seed * 1_000_003 + _VIEWS)
        if isinstance(given, datasets.Dataset):
            column = find_image_column(given.features, None, "The transfer images")
            given = images_beside(given, column, {}, {})
        given = items_of(given, self.model, self.processing_class, desc="The transfer images")
        if not size_of(given):
            raise DataError("There is no transfer image. Give at least one, or none at all for views of the labelled.")
        self._check_apart(given, labelled)
        return given

    def _check_apart(self, named: Dataset, labelled: Dataset) -> None:
        """Refuse forget images among the transfer images, if not the labelled ones are such images themselves."""
        forgotten = items_of(self._forgotten, self.model, self.processing_class)
        if isinstance(forgotten, LazyImages) or isinstance(named, LazyImages):
            return  # too many to decode twice; a run compares the files before
        lost = pictures(forgotten)
        if (bad := len(lost & pictures(named))) and not pictures(labelled) <= lost:
            raise DataError(
                f"{bad} of the {size_of(named)} transfer images are to be forgotten: with them the given model would "
                "teach what it is to lose. Take them out."
            )

    @property
    def _stored(self) -> bool:
        """Whether the teacher speaks once about each image, and his words are kept."""
        return self.kind == "labels" or (self.kind == "outputs" and self.number is not None)

    def start(self) -> None:
        """Put the student at its start: the public weights, or random ones, under a head that nobody trained."""
        fresh = fresh_model(self.model, self.retain_task, self.args.seed)
        state = fresh.backbone.state_dict()
        if self.args.base_model is not None:
            state = load_base(self.args.base_model, self.teacher).state_dict()
        self.model.backbone.load_state_dict(state)
        self.model.heads[self.retain_task].load_state_dict(fresh.heads["new"].state_dict())

    # What the teacher says ------------------------------------------------------------------------------------

    @torch.no_grad()
    def answers(self, model: MultiHeadClassifier, images: Dataset) -> Tensor:
        """Logits (images, words) of a model in evaluation mode, the same on every process."""
        training, found = model.training, torch.zeros(size_of(images), len(self.rows), device=self.args.device)
        model.eval()
        mine = range(size_of(images))[self.args.process_index :: self.args.world_size]
        at = 0
        for pixels, _ in self.batches(Unlabelled(images), "what is said of transfer images"):
            found[list(mine[at : at + len(pixels)])] = model(pixels, task=self.retain_task)[:, self.rows].float()
            at += len(pixels)
        model.train(training)
        return self.share.summed(found)

    def words(self, logits: Tensor, images: str) -> TransferLabels:
        """What is stored of logits (images, words)."""
        if self.number is None:
            codes = hard_labels(logits, self.args.confidence)
        else:
            codes = rounded_outputs(logits, self.number)
        names = tuple(self.model.labels[self.retain_task][row] for row in self.rows.tolist())
        rejection = self.number is None and self.args.confidence > 0
        return TransferLabels(self.args.channel, names, rejection, images, codes.cpu())

    def heard(self, labels: TransferLabels) -> Tensor:
        """Targets (images, classes of the head) that the student makes of the words."""
        shares = targets_of(labels.codes, len(labels.classes), labels.levels)
        if labels.levels is not None and self.args.confidence:
            shares[shares.amax(-1) < self.args.confidence] = 0  # it follows from the words: no further one
        whole = torch.zeros(len(shares), len(self.model.labels[self.retain_task]))
        whole[:, self.rows.cpu()] = shares
        return whole.to(self.args.device)

    def _check_words(self, said: TransferLabels, named: Dataset) -> None:
        """Refuse words about other images, or in another language."""
        known = [self.model.labels[self.retain_task][row] for row in self.rows.tolist()]
        if said.channel != self.args.channel or list(said.classes) != known:
            raise DataError(
                f"The words that were given are {said.channel} of the classes {', '.join(said.classes)}; asked for "
                f"are {self.args.channel} of {', '.join(known)}."
            )
        if len(said.codes) != size_of(named) or said.images != fingerprint_of(named):
            raise DataError(
                f"The words that were given are about {len(said.codes)} other images than these {size_of(named)}. "
                "Give the transfer images that they were made of, prepared by the same processor."
            )

    def _check_answers(self, logits: Tensor) -> None:
        best, names = logits.argmax(-1), self.model.labels[self.retain_task]
        counts = torch.bincount(best, minlength=len(self.rows))
        share = counts.max().item() / len(best)
        if len(self.rows) > 1 and share >= NEARLY_ALL:
            one = names[int(self.rows[int(counts.argmax())])]
            raise DataError(
                f"The given model calls {share:.0%} of the {len(best)} transfer images {one!r}, so it says nothing "
                "that a student could learn. Look whether they are prepared as it needs them, or take others."
            )
        sure = (logits.softmax(-1).amax(-1) >= self.args.confidence).float().mean().item()
        if not sure:
            raise DataError(
                f"confidence={self.args.confidence}: the given model is that sure of none of the {len(best)} transfer "
                "images. Lower it."
            )

    @torch.no_grad()
    def _open_bottleneck(self) -> None:
        """The r directions of the teacher's features that vary most over the images, and a fresh layer for them."""
        images = Unlabelled(self.transfer)
        rows = range(min(len(self.transfer), 4096))
        features = torch.cat([self.teacher.features(x).float() for x, _ in self._whole(images, rows)])
        r = self.number or 1
        if r > min(features.shape):
            raise ConfigError(
                f"channel={self.args.channel}: {len(features)} images with {features.shape[1]} features have no more "
                f"than {min(features.shape)} directions. Lower r."
            )
        self.centre = features.mean(0)
        _, scale, directions = torch.linalg.svd(features - self.centre, full_matrices=False)
        self.basis = directions[:r].T / (scale[:r] / len(features) ** 0.5).clamp_min(1e-6)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.args.seed + _MIXUP)
            self.model.add_head(_BOTTLENECK, [str(i) for i in range(r)] if r > 1 else ())

    def _whole(self, images: Dataset, rows: range):
        for start in range(0, len(rows), 64):
            yield self.load_rows(images, rows[start : start + 64])

    def trains(self, name: str, parameter: nn.Parameter) -> bool:
        return super().trains(name, parameter) or name.startswith(f"heads.{_BOTTLENECK}.")

    # Rounds ---------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch=None) -> Tensor:
        step, rounds = self.state.global_step, self.args.rounds
        now = step * rounds // self.state.max_steps
        if now != self._round and self.transfer.named is not None:
            kept = Path(str(self.args.output_dir)) / f"round_{now}.safetensors"
            if now > (step - 1) * rounds // self.state.max_steps:
                logits = self.answers(self.accelerator.unwrap_model(self.model), self.transfer.named)
                codes = self.words(logits, "").codes
                if self.args.should_save:
                    write_whole({"codes": codes}, kept)
            else:  # resumed in the middle of a round
                codes = load_file(kept)["codes"]
            assert self.labels is not None
            said = TransferLabels(self.labels.channel, self.labels.classes, self.labels.rejection, "", codes)
            self.targets = torch.cat([self._true, self.heard(said)])
        self._round = now
        return super().training_step(model, inputs, num_items_in_batch)

    # What is left ---------------------------------------------------------------------------------------------

    def bound(self) -> dict[str, Any]:
        """How much of the given model can be in the student, as a report holds it."""
        images = size_of(self.transfer if self.transfer.named is None else self.transfer.named)
        rejection = self.labels is not None and self.labels.rejection
        told: dict[str, Any] = {"channel": self.args.channel, "images": images, "classes": len(self.rows)}
        told |= {"rejection": rejection, "rounds": 1, "choices": self.args.choices}
        found = channel_bound(**told)
        told |= {"bits": None, "bytes": None} if found is None else found._asdict()
        return told | {"base": self.args.base_model}

    def save_artifacts(self, folder: Path) -> None:
        if self.args.should_save:
            (folder / BOUND).write_text(json.dumps(self.bound()), encoding="utf-8")

    def write(self, folder: Any) -> None:
        super().write(folder)
        if self.labels is not None:
            self.labels.save(Path(folder) / TRANSFER)
