"""What happens on the page: each function is one event, and says to the visitor what was wrong with an input."""

import functools
import inspect
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
from PIL import Image

from hf_dtl.audit.report import without_folders
from hf_dtl.errors import ConfigError, DTLError
from page import views
from page.curve import curve
from page.pairs import Pair, Pairs
from page.probe import probe
from page.references import Lines, lines, reported, same_attacker
from page.relearn import MOST_SEED, LiveAttack, offered
from page.tasks import Tasks

REFERENCES = ("undisposed", "retrained", "scratch")


def said_to_visitor(event: Callable) -> Callable:
    """Turn an error of the library into its message, and any other into one that tells nothing of this machine."""

    def told(error: Exception) -> gr.Error:
        if isinstance(error, gr.Error):
            return error
        if isinstance(error, DTLError):
            return gr.Error(str(without_folders(str(error)))[:600], print_exception=False)
        traceback.print_exception(error)
        return gr.Error(
            "Something went wrong here, and was written to the log. Try other inputs.", print_exception=False
        )

    if inspect.isgeneratorfunction(event):

        @functools.wraps(event)
        def steps(*inputs: Any) -> Iterator[Any]:
            try:
                yield from event(*inputs)
            except Exception as error:
                raise told(error) from error

        return steps

    @functools.wraps(event)
    def once(*inputs: Any) -> Any:
        try:
            return event(*inputs)
        except Exception as error:
            raise told(error) from error

    return once


class Events:
    """The events of the page over one collection of pairs; no state of a visitor is kept between them."""

    def __init__(self, pairs: Pairs):
        self.pairs = pairs
        for name in ("open", "example", "probe", "relearn", "idle"):
            setattr(self, name, said_to_visitor(getattr(self, name)))

    def open(self, published: str, undisposed: str) -> tuple[Any, ...]:
        """Open a published pair and give its headline, examples, choices of attacks, and leakage card."""
        pair = self.pairs.get(published, undisposed)
        attacks, budgets = offered(pair)
        examples = pair.tasks.examples if isinstance(pair.tasks, Tasks) else ()
        image = examples[0].image if examples else None
        ready = bool(examples and attacks and budgets)
        attack = ("full" if "full" in attacks else attacks[0]) if ready else None
        budget = budgets[len(budgets) // 2] if ready else None
        models = [("scrubbed, as published", "scrubbed"), ("undisposed, before disposal", "undisposed")]
        return (
            views.headline(pair),
            gr.Gallery([(example.image, example.caption) for example in examples], visible=bool(examples)),
            image,
            _probed(pair, image),
            gr.Radio([m for m in models if m[1] in pair.models], value="scrubbed"),
            gr.Radio(attacks, value=attack),
            gr.Radio(budgets, value=budget),
            gr.Button(interactive=ready),
            *(_idle(pair, attack, budget) if ready else (views.message(_why_not(pair)), "")),
            views.card(pair),
        )

    def example(self, published: str, undisposed: str, chosen: gr.SelectData) -> tuple[Image.Image, str]:
        """Put an example image into the place of the visitor's own."""
        pair = self.pairs.get(published, undisposed)
        if not isinstance(pair.tasks, Tasks) or not isinstance(chosen.index, int):
            raise ConfigError("This pair has no example images.")
        image = pair.tasks.examples[chosen.index % len(pair.tasks.examples)].image
        return image, _probed(pair, image)

    def probe(self, published: str, undisposed: str, image: Image.Image | None) -> str:
        """Look at an image with both models: predictions, and the classes that the features are nearest to."""
        return _probed(self.pairs.get(published, undisposed), image)

    def stopped(self) -> str:
        """Say that an attack was stopped; the queue ends it."""
        return views.message("Stopped.")

    def idle(self, published: str, undisposed: str, attack: str, budget: int) -> tuple[str, str]:
        """Draw the references of an attack before it begins."""
        return _idle(self.pairs.get(published, undisposed), attack, budget)

    def relearn(
        self, published: str, undisposed: str, which: str, attack: str, budget: int, seed: float
    ) -> Iterator[tuple[str, str]]:
        """Run a piggyback attack, and give the curve and how far it is, until its end."""
        pair = self.pairs.get(published, undisposed)
        if not isinstance(seed, (int, float)) or isinstance(seed, bool) or seed != seed // 1:
            raise ConfigError(f"The seed must be a whole number in 0..{MOST_SEED}.")
        live = LiveAttack(pair, which, attack, budget, int(seed))
        references = _lines(pair, attack, budget)
        says = reported(pair.report, which, attack, budget, int(seed))
        same = same_attacker(pair.report, live.config, attack)
        note = "" if same else "The report's attacker had other learning rates or lengths, so its numbers differ."
        title = _title(which, attack, budget)
        for progress in live.run():
            yield curve(progress, references, title), views.status(progress, references, says, note)


def _lines(pair: Pair, attack: str, budget: int) -> Lines:
    return {model: value for model, value in lines(pair.report, attack, budget).items() if model in REFERENCES}


def _idle(pair: Pair, attack: str, budget: int) -> tuple[str, str]:
    references = _lines(pair, attack, budget)
    return curve(None, references, _title("scrubbed", attack, budget)), views.status(None, references, None)


def _title(which: str, attack: str, budget: int) -> str:
    return f"Accuracy of {attack} on the {which} model with {budget} images a class, over training steps"


def _why_not(pair: Pair) -> str:
    return pair.tasks if isinstance(pair.tasks, str) else "The report has no attack short enough for this page."


def _probed(pair: Pair, image: Image.Image | None) -> str:
    if image is None:
        return views.message("Choose an example, or upload an image.")
    return views.probed(pair, {which: probe(pair, which, image) for which in pair.models})
