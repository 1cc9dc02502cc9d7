"""What happens on the page: each function is one event, and says to the visitor what was wrong with an input."""

import traceback
from collections import OrderedDict
from collections.abc import Iterator
from threading import Event
from typing import Any

import gradio as gr
from PIL import Image

from hf_dtl.audit.report import without_folders
from hf_dtl.errors import ConfigError, DataError, DTLError
from page import views
from page.curve import curve
from page.pairs import Pair, Pairs
from page.probe import probe
from page.references import Lines, lines, reported, same_attacker
from page.relearn import MOST_SEED, LiveAttack, check_offered, counted, offered
from page.tasks import Tasks
from page.uploads import on_background

REFERENCES = ("undisposed", "retrained", "scratch", "no_model")
OPENED, MOST_WAITING = 15, 100
"""Outputs of a pair that was opened, and visitors whose attack may wait."""


def explained(error: Exception) -> str:
    """An error of the library in its own words; any other, in words that tell nothing of this machine."""
    if isinstance(error, DTLError):
        return str(without_folders(str(error)))[:600]
    traceback.print_exception(error)
    return "Something went wrong here, and was written to the log. Try other inputs."


class Events:
    """The events of the page over one collection of pairs.

    What is wrong is said at its field, the first output or outputs of every event; all others stay as they were, and
    so does the pair that was opened last. Of a visitor nothing is kept but what stops a running attack.
    """

    def __init__(self, pairs: Pairs):
        self.pairs = pairs
        self._waiting: OrderedDict[str | None, Event] = OrderedDict()
        self._running: dict[str | None, Event] = {}

    def open(self, published: str, undisposed: str) -> tuple[Any, ...]:
        """Open a published pair and give its headline, examples, choices of attacks, and leakage card."""
        try:
            return ("", "", *self._opened(published, undisposed))
        except Exception as error:
            words = views.wrong(explained(error))
        at_field = ("", words) if undisposed and self._opens(published) else (words, "")
        return (*at_field, *[gr.skip()] * OPENED)

    def _opens(self, published: str) -> bool:
        """Whether the published model can be opened alone: what is wrong is then the undisposed one."""
        try:
            return bool(self.pairs.get(published))
        except Exception:
            return False

    def _opened(self, published: str, undisposed: str) -> tuple[Any, ...]:
        pair = self.pairs.get(published, undisposed)
        attacks, budgets = offered(pair)
        examples = pair.tasks.examples if isinstance(pair.tasks, Tasks) else ()
        image = examples[0].image if examples else None
        ready = bool(examples and attacks and budgets)
        attack = attacks[0] if ready else None
        budget = budgets[len(budgets) // 2] if ready else None
        models = [("scrubbed, as published", "scrubbed"), ("undisposed, before disposal", "undisposed")]
        return (
            published,
            undisposed,
            views.headline(pair),
            gr.Gallery([(example.image, example.caption) for example in examples], visible=bool(examples)),
            "",
            image,
            _probed(pair, image),
            gr.Radio([m for m in models if m[1] in pair.models], value="scrubbed"),
            gr.Radio(attacks, value=attack),
            gr.Radio(budgets, value=budget),
            "",
            gr.Button(interactive=ready),
            *(_idle(pair, attack, budget) if ready else (views.message(_why_not(pair)), "")),
            views.card(pair),
        )

    def example(self, published: str, undisposed: str, chosen: gr.EventData) -> tuple[str, Any, Any]:
        """Put an example image into the place of the visitor's own."""
        try:
            pair = self.pairs.get(published, undisposed)
            index = chosen._data.get("index") if isinstance(chosen._data, dict) else None  # SelectData wants it whole
            if not isinstance(pair.tasks, Tasks) or not isinstance(index, int):
                raise ConfigError("This pair has no such example image.")
            image = pair.tasks.examples[index % len(pair.tasks.examples)].image
            return "", image, _probed(pair, image)
        except Exception as error:
            return views.wrong(explained(error)), gr.skip(), gr.skip()

    def probe(self, published: str, undisposed: str, image: Image.Image | DataError | None) -> tuple[str, Any]:
        """Look at an image with both models: predictions, and the classes that the features are nearest to."""
        try:
            if isinstance(image, DataError):
                raise image
            pair = self.pairs.get(published, undisposed)
            return "", _probed(pair, None if image is None else on_background(image, pair.background))
        except Exception as error:
            return views.wrong(explained(error)), gr.skip()

    def idle(self, published: str, undisposed: str, attack: str, budget: int) -> tuple[str, Any, Any]:
        """Draw the references of an attack before it begins."""
        try:
            pair = self.pairs.get(published, undisposed)
            check_offered(pair, "scrubbed", attack, budget)
            return "", *_idle(pair, attack, budget)
        except Exception as error:
            return views.wrong(explained(error)), gr.skip(), gr.skip()

    def relearn(
        self, published: str, undisposed: str, which: str, attack: str, budget: int, seed: float, request: gr.Request
    ) -> Iterator[tuple[str, Any, Any]]:
        """Run a piggyback attack, and give the curve and how far it is, until its end."""
        visitor = request.session_hash
        stop = self._running[visitor] = self._waiting.pop(visitor, None) or Event()
        try:
            pair = self.pairs.get(published, undisposed)
            if not isinstance(seed, (int, float)) or isinstance(seed, bool) or seed != seed // 1:
                raise ConfigError(f"The seed must be a whole number in 0..{MOST_SEED}.")
            live = LiveAttack(pair, which, attack, budget, int(seed))
            references, title = _lines(pair, attack, budget), _title(which, attack, budget)
            says = reported(pair.report, which, attack, budget, int(seed))
            same = same_attacker(pair.report, live.config, attack)
            note = "" if same else "The report's attacker had other learning rates or lengths, so its numbers differ."
            live.stop = stop
            for progress in live.run():
                picture = curve(progress, references, title, counted(attack))
                yield "", picture, views.status(pair, progress, references, says, note, counted(attack))
        except Exception as error:
            yield views.wrong(explained(error)), gr.skip(), gr.skip()
        finally:
            self._running.pop(visitor, None)

    def ask(self, request: gr.Request) -> None:
        """Know that a visitor's attack waits for its turn, so that it can be stopped before."""
        self._waiting[request.session_hash] = Event()
        while len(self._waiting) > MOST_WAITING:
            self._waiting.popitem(last=False)

    def stopped(self, request: gr.Request) -> Any:
        """End a visitor's attack, which then shows how far it came; one that waits ends when its turn comes."""
        waiting, running = (found.get(request.session_hash) for found in (self._waiting, self._running))
        for stop in filter(None, (waiting, running)):
            stop.set()
        return views.message("Stopped before it began.") if waiting else gr.skip()


def _lines(pair: Pair, attack: str, budget: int) -> Lines:
    return {model: value for model, value in lines(pair.report, attack, budget).items() if model in REFERENCES}


def _idle(pair: Pair, attack: str, budget: int) -> tuple[str, str]:
    references = _lines(pair, attack, budget)
    picture = curve(None, references, _title("scrubbed", attack, budget), counted(attack))
    return picture, views.status(pair, None, references)


def _title(which: str, attack: str, budget: int) -> str:
    return f"Accuracy of {attack} on the {which} model with {budget} images a class, over {counted(attack)}"


def _why_not(pair: Pair) -> str:
    return pair.tasks if isinstance(pair.tasks, str) else "The report has no attack short enough for this page."


def _probed(pair: Pair, image: Image.Image | None) -> str:
    if image is None:
        return views.message("Choose an example, or upload an image.")
    return views.probed(pair, {which: probe(pair, which, image) for which in pair.models})
