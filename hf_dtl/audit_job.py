"""The audit of two given models: load, check everything, attack."""

import copy
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import AttackedTask, PiggybackRecord, accuracy, run_audit, scratch_model, scratch_models
from hf_dtl.audit.published import check_finite
from hf_dtl.audit.task import draw_up_to
from hf_dtl.audit_options import AuditOptions
from hf_dtl.data import ImageTensors, TaskData, check_disjoint, check_forward, load_images, load_task
from hf_dtl.errors import ConfigError, DataError, ModelError, OutputError
from hf_dtl.models.heads import MultiHeadClassifier, locate_classifier
from hf_dtl.models.loading import check_same_processors, load_classifier, processor_of, resized
from hf_dtl.models.published_heads import PublishedHeads, numbered
from hf_dtl.pipeline.stages import Run
from hf_dtl.processes import one_core_each, together
from hf_dtl.trainers.training import fine_tune

STORE = "attacks.jsonl"
AXES = {"source": "source_subset", "novel": "novel_downstream"}
SPLITS = ("train", "validation", "test")
POOL = 400
"""Training images a class that the attackers of all seeds draw from: so many, but 4 to 20 times the largest budget."""
FEW_PARAMETERS = 2_000_000


class AuditJob:
    """Everything is loaded and checked before the output folder is touched.

    Args:
        options: see `AuditOptions`.
        train: train the retrained reference where the options ask for it.

    Attributes:
        models: the audited models by role: undisposed, scrubbed, scratch (its first draw), retrained.
        accuracies: of the undisposed and the scrubbed model on `source` and `target`; None is not measured.

    Raises:
        ConfigError, DataError, ModelError, OutputError: bad input, before any attack. With several processes an error
            on one of them is raised on all.
    """

    def __init__(self, options: AuditOptions, *, train: bool = True):
        self.options = options
        # The others wait while the first one measures and writes.
        self.state = PartialState(cpu=options.use_cpu, timeout=timedelta(hours=24))
        together(self._load)
        self.run = Run(options.output_dir, options.identity(), self.state)
        if options.retrain and train:
            self.models["retrained"] = self._retrained()
        self.attacked = together(self._attacked)

    def attack(self) -> list[PiggybackRecord]:
        """Run every attack that is not finished yet, shared among the processes; each of them gets all records."""
        models: dict[str, PreTrainedModel | list[PreTrainedModel]] = {**self.models}
        if self.options.scratch is None:  # a draw of the random weights for each attack seed
            draws = scratch_models(self.models["undisposed"], len(self.attacks.seeds), self.options.seed)
            models["scratch"] = [draw.to(self.state.device) for draw in draws]
        return run_audit(models, self.attacked, self.attacks, store=self.run.folder / STORE)

    @property
    def scratch_from_scrubbed(self) -> bool:
        """Whether the scrubbed model's configuration and the seed are enough to draw the scratch models again."""
        labels = {int(self.models[role].config.num_labels or 0) for role in ("undisposed", "scrubbed")}
        same = self.architectures["scrubbed"] == self.architectures["undisposed"] and len(labels) == 1
        return self.options.scratch is None and same

    # Checks and loading ---------------------------------------------------------------------------------------

    def _load(self) -> None:
        o = self.options
        if self.state.is_main_process:
            self._check_resume()
        if o.retrain and o.retrain_batch_size % self.state.num_processes:
            raise ConfigError(
                f"--retrain_batch_size {o.retrain_batch_size} must be a multiple of the "
                f"{self.state.num_processes} processes."
            )
        self.tasks = {name: self._task(name) for name in o.datasets}
        if "target" in self.tasks:
            check_disjoint(self.tasks["source"], self.tasks["target"])
        self.models = {role: load_classifier(*place) for role, place in o.models.items()}
        size = max(model.num_parameters() for model in self.models.values())
        workers = one_core_each(self.state.device, self.state.num_processes) if size < FEW_PARAMETERS else 1
        self.attacks = replace(o.attacker(size), workers=workers)
        for role, model in self.models.items():
            check_finite(model, f"the {role} model")
        self.architectures = {role: _architecture(model) for role, model in self.models.items()}
        self.models.setdefault("scratch", scratch_model(self.models["undisposed"], o.seed))
        self.heads = PublishedHeads.find(self.models, {name: task.labels for name, task in self.tasks.items()})
        pools = {name: self._pool(name, task) for name, task in self.tasks.items()}
        self.channels = self._same_channels()
        self.processor = self._processor()
        self.images: dict[str, dict[str, ImageTensors]] = {
            name: {
                split: self._images(task.name, split, pools[name] if split == "train" else getattr(task, split))
                for split in SPLITS
            }
            for name, task in self.tasks.items()
        }
        for role, model in self.models.items():
            try:
                for images in self.images.values():
                    check_forward(model, images["train"])
            except ModelError as error:
                raise ModelError(f"The {role} model: {error}") from error
        self._to_device()
        self.accuracies = {task: self._accuracies(task) for task in ("source", "target")}

    def _check_resume(self) -> None:
        folder = Path(self.options.output_dir)
        stored = [folder / STORE, *folder.glob(f"{STORE}.process*")]
        finished = sum(path.read_bytes().count(b"\n") for path in stored if path.is_file())
        if finished and not self.options.resume:
            raise OutputError(
                f"The output folder {folder} holds an audit with {finished} finished attacks. Add --resume to "
                "continue it, or choose another --output_dir."
            )

    def _task(self, name: str) -> TaskData:
        o = self.options
        column = getattr(o, f"{name}_label_column")
        return load_task(o.datasets[name], image_column=o.image_column, label_column=column)

    def _pool(self, name: str, task: TaskData) -> Dataset:
        """The training images that are used of a task: a fixed draw."""
        most = max(self.attacks.budgets)
        labels = torch.as_tensor(task.train.select_columns(["label"]).with_format("numpy")[:]["label"])
        cap = self.options.max_train_images_per_class
        if cap is None and not (name == "target" and self.options.retrain):
            cap = min(max(POOL, 4 * most), 20 * most)
        rows = torch.arange(len(labels)) if cap is None else draw_up_to(labels, cap, seed=0).sort().values
        counts = torch.bincount(labels[rows], minlength=len(task.labels)).tolist()
        if name in AXES and min(counts) < most:
            few = [f"'{label}' has {n}" for label, n in zip(task.labels, counts, strict=True) if n < most]
            raise DataError(
                f"A budget of {most} images a class cannot be drawn from '{task.name}': of its training images the "
                f"class {', '.join(few)}. Use --budgets up to {min(counts)}, or give more images."
            )
        return task.train.select(rows.tolist())

    def _same_channels(self) -> int:
        channels = {role: getattr(model.config, "num_channels", 3) for role, model in self.models.items()}
        if len(set(channels.values())) > 1:
            found = ", ".join(f"{role} {count}" for role, count in channels.items())
            raise ModelError(f"The models take images with different numbers of channels: {found}.")
        return channels["scrubbed"]

    def _processor(self) -> BaseImageProcessor:
        o, places = self.options, self.options.models
        if o.processor is not None:
            role = o.processor if o.processor in places else "scrubbed"
            place = places.get(o.processor, (o.processor, "main"))
            found = {role: processor_of(place[0], self.models[role], place[1])}
        else:
            found = {role: processor_of(place[0], self.models[role], place[1]) for role, place in places.items()}
        if o.image_size is not None:
            found = {role: resized(one, self.models[role], o.image_size) for role, one in found.items()}
        remedy = "Choose one for all models, for example --processor scrubbed, or --image_size if only sizes differ."
        check_same_processors(found, self.channels, remedy)
        return found.get("undisposed") or next(iter(found.values()))

    def _images(self, name: str, split: str, dataset: Dataset) -> ImageTensors:
        cap = self.options.max_eval_images
        if split != "train" and cap is not None and cap < len(dataset):
            dataset = dataset.shuffle(seed=0).select(range(cap))
        images = load_images(
            dataset,
            self.processor,
            num_channels=self.channels,
            memory_limit_gib=float("inf"),  # the attacks keep every image in memory
            desc=f"{name} {split}",
        )
        assert isinstance(images, ImageTensors)
        return images

    def _to_device(self) -> None:
        for model in self.models.values():
            model.to(self.state.device)

    def _accuracies(self, task: str) -> dict[str, float | None]:
        rows = getattr(self.heads, task)
        return {
            role: None if rows[role] is None else self._accuracy(role, numbered(self.images[task]["test"], rows[role]))
            for role in ("undisposed", "scrubbed")
        }

    def _accuracy(self, role: str, test: ImageTensors) -> float | None:
        # One process measures; the others could only find the same.
        return accuracy(self.models[role], test) if self.state.is_main_process else None

    # What is attacked -----------------------------------------------------------------------------------------

    def _retrained(self) -> PreTrainedModel:
        """Train the undisposed architecture on the target data alone, under the undisposed head where that fits."""
        o, train = self.options, self.images["target"]["train"]
        model, rows = scratch_model(self.models["undisposed"], o.seed), self.heads.target["undisposed"]
        if rows is not None:
            train = numbered(train, rows)
        else:
            split = MultiHeadClassifier(copy.deepcopy(model), task="old")
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(o.seed)
                split.add_head("target", self.tasks["target"].labels)
            model = split.export("target")
        options: dict[str, Any] = {
            "per_device_train_batch_size": o.retrain_batch_size // self.state.num_processes,
            "num_train_epochs": o.retrain_epochs,
            "learning_rate": o.retrain_learning_rate,
            "seed": o.seed,
            "use_cpu": o.use_cpu,
            "dataloader_pin_memory": self.state.device.type == "cuda",
        }

        def work(folder: Path) -> None:
            trained = fine_tune(model.cpu(), train, folder, "retrained", **options)
            if self.state.is_main_process:
                trained.save_pretrained(folder)
                self.processor.save_pretrained(folder)

        return load_classifier(self.run.stage("retrained", work)).to(self.state.device)

    def _attacked(self) -> dict[str, AttackedTask]:
        """The attacked tasks, with retain images where all heads number the target classes alike."""
        labels = {name: task.labels for name, task in self.tasks.items()}
        self.heads = PublishedHeads.find(self.models, labels)
        other = [role for role, own in self.architectures.items() if own != self.architectures["undisposed"]]
        if other:
            self.heads.notes.append(
                f"Another architecture than the undisposed model: {', '.join(other)}. The leakage compares both."
            )
        rows = self.heads.numbered_alike()
        retain = None if rows is None else numbered(self.images["target"]["train"], rows)
        if "target" in self.tasks and retain is None:
            self.heads.notes.append("No attacks on retain images: the heads do not number the target classes alike.")
        task = partial(AttackedTask, retain=retain)
        return {
            name: task(self.tasks[name].name, axis, self.tasks[name].labels, **self.images[name])
            for name, axis in AXES.items()
            if name in self.tasks
        }


def _architecture(model: PreTrainedModel) -> tuple[str, dict[str, torch.Size]]:
    """Class and shapes of the weights, the head apart."""
    head = locate_classifier(model)
    shapes = {name: p.shape for name, p in model.named_parameters() if not name.startswith(f"{head}.")}
    return type(model).__name__, shapes
