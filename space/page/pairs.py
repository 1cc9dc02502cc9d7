"""The published pairs that a visitor can choose: those on this machine, and models of the Hub by their ids."""

import re
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import BoundedSemaphore, Lock

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import BaseImageProcessor, PreTrainedModel

from hf_dtl.audit import LeakageReport
from hf_dtl.audit.classifiers import check_finite, predict
from hf_dtl.data.decoding import WHITE, check_colour
from hf_dtl.data.processors import channels_of
from hf_dtl.data.sources import EXAMPLE_FOLDER
from hf_dtl.errors import ConfigError, DTLError, ModelError
from hf_dtl.hub import weights_sha256
from hf_dtl.hub.claims import check_claims
from hf_dtl.hub.source_rows import named_classes
from hf_dtl.hub.staging import REPORT, check_size
from hf_dtl.models.labels import head_names
from hf_dtl.models.loading import check_same_processors, load_classifier, processor_of
from page.hub import fetched
from page.means import ClassMeans
from page.tasks import Tasks, tasks_of

EXAMPLE, DEMO = "example", "demo"
KEPT, LOCAL = 2, 6
"""Pairs in memory, and as many more as there are on this machine, up to so many; the one that was not asked for the
longest time goes first.
"""
PATIENCE = 60.0
"""Seconds that the class means of a pair may take."""
OPENING = 3
"""Visitors whose models of the Hub are being opened, one after the other; a further one is told to come again."""


@dataclass(frozen=True, eq=False)  # told apart by identity, so that drawings of it can be kept
class Pair:
    """A scrubbed model with its report, and the model before disposal where it is published.

    Args:
        name: what the visitor chose.
        report: the leakage report that came with the scrubbed model.
        models: `scrubbed`, and `undisposed` where it is there.
        processor: prepares an image for both.
        tasks: images of the source and the target task, or the reason why there are none.
        means: class means of each model's features; empty without images.
        proven: whether the report names these very weights; None where it names none.
    """

    name: str
    report: LeakageReport
    models: dict[str, PreTrainedModel]
    processor: BaseImageProcessor
    tasks: Tasks | str
    means: dict[str, ClassMeans]
    proven: bool | None

    @property
    def channels(self) -> int:
        """Channels that the models take."""
        return channels_of(self.models["scrubbed"].config)

    @property
    def background(self) -> str:
        """Colour under what is transparent, as in the data that were audited."""
        return str(self.report.spec.get("background", WHITE))


def local_pairs(space: Path) -> dict[str, Path]:
    """Pairs on this machine by name: the example that comes with the library, and what `make demo` left here."""
    found = {}
    for name, run in {EXAMPLE: EXAMPLE_FOLDER, DEMO: space.parent / "outputs" / "demo"}.items():
        found |= {name: run} | {f"{name}: {method.name}": method for method in sorted(run.glob("methods/*"))}
    return {name: folder for name, folder in found.items() if (folder / "scrubbed" / REPORT).is_file()}


class Pairs:
    """Loads pairs and keeps the last few; a visitor's text is a name of this list or a Hub id, never a path.

    Args:
        local: folders by name, each with `scrubbed/`; `undisposed/` is there or in the run that it belongs to.
    """

    def __init__(self, local: dict[str, Path]):
        self.local = local
        self._kept: OrderedDict[tuple[str, str], Pair] = OrderedDict()
        self._lock, self._loading = Lock(), {True: Lock(), False: Lock()}
        self._opening = BoundedSemaphore(OPENING)

    def get(self, published: object, undisposed: object = "") -> Pair:
        """Give a pair, loading it if need be.

        Args:
            published: a local name, or the Hub id of a scrubbed model.
            undisposed: Hub id of the model before disposal, or nothing; not used for local pairs.

        Raises:
            ConfigError: a text is neither.
            DataError, ModelError: the models or the report cannot be used.
        """
        local = isinstance(published, str) and published in self.local
        key = (published if local else hub_id(published, "published model"), "")
        if not local and undisposed:
            key = (key[0], hub_id(undisposed, "undisposed model"))
        found = self._known(key)
        if found is not None:
            return found
        if local:
            return self._load(key, local)
        # A slow download must not hold up those who look at a local pair.
        if not self._opening.acquire(blocking=False):
            raise ModelError(f"{OPENING} other models of the Hub are being opened. Try {key[0]} again in a minute.")
        try:
            return self._load(key, local)
        finally:
            self._opening.release()

    def _load(self, key: tuple[str, str], local: bool) -> Pair:
        with self._loading[local]:
            found = self._known(key) or (self._from_folders(key[0]) if local else _from_hub(*key))
            self._keep(key, found)
        return found

    def _known(self, key: tuple[str, str]) -> Pair | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, str], pair: Pair) -> None:
        with self._lock:
            self._kept[key] = pair
            self._kept.move_to_end(key)
            while len(self._kept) > KEPT + min(len(self.local), LOCAL):
                self._kept.popitem(last=False)

    def _from_folders(self, name: str) -> Pair:
        folder = self.local[name]
        beside = [f / "undisposed" for f in (folder, folder.parent.parent) if (f / "undisposed").is_dir()]
        return _load(name, folder / "scrubbed", beside[0] if beside else None)


def hub_id(text: object, what: str) -> str:
    """Check that a visitor's text is a Hub id, and give it without spaces around it.

    Raises:
        ConfigError: it is none; `what` names it.

    Example:
        >>> hub_id(" user/scrubbed ", "published model")
        'user/scrubbed'
    """
    word = text.strip() if isinstance(text, str) else ""
    try:
        if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", word, re.ASCII):
            raise HFValidationError
        validate_repo_id(word)
    except HFValidationError:
        shown = repr(text)[:60]
        raise ConfigError(
            f"{shown} cannot be the {what}: choose one of the list, or write a Hub id such as user/scrubbed-model."
        ) from None
    return word


def _from_hub(published: str, undisposed: str) -> Pair:
    with fetched(published, report=True) as scrubbed:
        if not undisposed:
            return _load(published, scrubbed, None)
        with fetched(undisposed, report=False) as before:
            return _load(published, scrubbed, before)


def _load(name: str, scrubbed: Path, undisposed: Path | None) -> Pair:
    folders = {"scrubbed": scrubbed, **({} if undisposed is None else {"undisposed": undisposed})}
    try:
        report = LeakageReport.load(scrubbed / REPORT)
        if report.tasks:
            raise ModelError(
                f"{name} has the tasks {', '.join(report.tasks)[:100]}; this page takes models of one task."
            )
        models = {which: load_classifier(folder) for which, folder in folders.items()}
        processors = {which: processor_of(folder, models[which]) for which, folder in folders.items()}
        check_claims(report, named_classes(report) | {name for m in models.values() for name in head_names(m)})
        check_size(scrubbed, report)
        for which, model in models.items():
            check_finite(model, f"the {which} model")
        channels = channels_of(models["scrubbed"].config)
        remedy = "Give the undisposed model that belongs to this scrubbed one."
        check_same_processors(processors, channels, remedy)
        tasks = tasks_of(report, processors["scrubbed"], channels)
        if isinstance(tasks, Tasks) and (seconds := _seconds(models, tasks)) > PATIENCE:
            tasks = f"Its images take about {seconds:.0f} seconds here, so that only report and predictions are shown."
        means = {} if isinstance(tasks, str) else {which: ClassMeans(model, tasks) for which, model in models.items()}
        proven = report.weights == weights_sha256(scrubbed) if report.weights else None
        pair = Pair(name, report, models, processors["scrubbed"], tasks, means, proven)
        check_colour(pair.background)
        return pair
    except DTLError:
        raise
    except Exception as error:  # whatever a foreign file raises
        raise ModelError(f"The files of {name} cannot be used ({type(error).__name__}).") from error


def _seconds(models: dict[str, PreTrainedModel], tasks: Tasks) -> float:
    """How long the class means of all models take, by one image of each."""
    found = 0.0
    for model in models.values():
        start = time.perf_counter()
        predict(model, tasks.tests.pixel_values[:1])
        found += (time.perf_counter() - start) * (len(tasks.means) + len(tasks.tests))
    return found
