"""A live piggyback attack: the audit's own, watched while it trains, and stopped after a while or by the visitor."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, Queue
from threading import Event, Thread, Timer

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_dtl.audit import AttackConfig, AttackedTask
from hf_dtl.audit.attacks import Unit, find_attack, train
from hf_dtl.audit.attacks.choice import share_right
from hf_dtl.audit.attacks.context import AttackContext
from hf_dtl.audit.attacks.kernel_ridge import MOST_ROWS, KernelRidge
from hf_dtl.audit.attacks.stack import FineTuning, Schedule, Stack, Stopped
from hf_dtl.audit.classifiers import predict
from hf_dtl.data import ImageTensors
from hf_dtl.errors import ConfigError, DataError, DTLError, ModelError
from page.pairs import Pair
from page.tasks import Tasks

ATTACKS = (
    "ridge", "ridge_affine_8", "ridge_crop_flip_8", "linear_probe", "full", "head_then_full", "full_400",
)  # fmt: skip
BUDGETS = (1, 2, 5, 10, 20)
MOST_SEED = 9_999
LIMIT = 30.0
"""Seconds that one attack may take."""
POINTS, WATCHED_VALIDATION, WATCHED_TEST = 12, 100, 200
PROBE_STEPS = (1, 2, 4, 8, 16, 32, 64, 100, 150)
SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
"""Images a class with which an attack in closed form is watched on its way to more of them."""


@dataclass(frozen=True)
class Progress:
    """How far an attack has come.

    Args:
        points: (step, accuracy on a part of the test images), the steps ascending. Of an attack in closed form, which
            has none, the images a class that it learned from.
        steps: steps of the whole attack, or images a class.
        seconds: since the start.
        accuracy: on the whole test split at the end, of the learning rate chosen on validation; None before the end.
        stopped: it was stopped by the limit or by the visitor.
    """

    points: tuple[tuple[int, float], ...]
    steps: int
    seconds: float
    accuracy: float | None = None
    stopped: bool = False


def counted(attack: str) -> str:
    """What a live attack goes on in: training steps, or of an attack in closed form images a class."""
    return "images a class" if isinstance(find_attack(attack), KernelRidge) else "training steps"


def offered(pair: Pair) -> tuple[list[str], list[int]]:
    """Attacks and budgets that the report has on the scrubbed model and that are short enough to run here."""
    own = [r for r in pair.report.piggyback if r.model == "scrubbed" and r.axis == "source_subset"]
    attacks = [attack for attack in ATTACKS if attack in {record.attack for record in own}]
    return attacks, sorted({record.budget for record in own if record.budget in BUDGETS})


def check_offered(pair: Pair, which: object, attack: object, budget: object) -> None:
    """Refuse an attack that is not offered for a pair.

    Raises:
        ConfigError: the message names the value and the choices.
    """
    attacks, budgets = offered(pair)
    for what, value, choices in (("model", which, list(pair.models)), ("attack", attack, attacks),
                                 ("number of images a class", budget, budgets)):  # fmt: skip
        if type(value) not in (str, int) or value not in choices:
            shown = ", ".join(map(str, choices)) or "nothing"
            raise ConfigError(f"The {what} {str(value)[:40]!r} is not offered for this pair; there is: {shown}.")


class _WatchedStack(Stack):
    """A stack that calls `watch` with itself at the start, now and again, and at the end."""

    watch: Callable[[Stack], None]

    def advance(self, until: int | None = None) -> None:
        end = min(until or self.steps, self.steps)
        if self.step == 0:
            self.watch(self)
        while self.step < end:
            before = self.step
            super().advance(min(end, before + max(1, self.steps // POINTS)))
            if self.step == before:  # every learning rate diverged
                return
            self.watch(self)


class _Watched(AttackContext):
    """The attacker's view of the published model, with stacks of whole networks that can be watched."""

    watch: Callable[[Stack], None]

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.watched_validation = _part(self.task.validation, WATCHED_VALIDATION)
        self.watched_test = _part(self.task.test, WATCHED_TEST)

    def stack(
        self, kind: str, network: nn.Module, members: list[FineTuning], schedule: Schedule, bound: float | None
    ) -> Stack:
        plain = super().stack(kind, network, members, schedule, bound)
        if kind == "linear_probe":
            return plain
        watched = _WatchedStack(
            network, members, schedule=schedule, weight_decay=self.config.weight_decay, max_gradient_norm=bound,
            together=plain.together, stop=self.stop,
        )  # fmt: skip
        watched.watch = self.watch
        return watched


class LiveAttack:
    """One attack on one model of a pair.

    Args:
        pair: with images of its source task.
        which: `scrubbed` or `undisposed`.
        attack, budget: of those that `offered` gives.
        seed: 0..9999.

    Raises:
        ConfigError: an option is not offered.
        DataError, ModelError: there are no images, or the model is too large for an attack within the limit.
    """

    def __init__(self, pair: Pair, which: str, attack: str, budget: int, seed: int):
        if not isinstance(pair.tasks, Tasks):
            raise DataError(pair.tasks)
        check_offered(pair, which, attack, budget)
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed <= MOST_SEED:
            raise ConfigError(f"The seed must be a whole number in 0..{MOST_SEED}, got {str(seed)[:40]!r}.")
        self.model, self.task = pair.models[which], pair.tasks.attacked
        self.unit = Unit(attack, budget, seed)
        self.config = AttackConfig.for_model(sum(p.numel() for p in self.model.parameters()))
        self.stop = Event()
        self._task = self._affordable(self.model, self.task)

    def _affordable(self, model: PreTrainedModel, task: AttackedTask) -> AttackedTask:
        """The task with as many held-out images as there is time for.

        Raises:
            ModelError: there would be no time for the training.
        """
        config, unit = self.config, self.unit
        batch = task.train.pixel_values[: config.batch_size]
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            predict(model, batch)
            seconds.append(time.perf_counter() - start)
        each = min(seconds) / len(batch)
        attack, images = find_attack(unit.attack), unit.budget * len(task.labels)
        rates = len(attack.learning_rates(config))
        if isinstance(attack, KernelRidge):
            self._lengths = tuple(size for size in SIZES if size < unit.budget)
            training = min(MOST_ROWS, attack.copies * images) * (1 + len(self._lengths))
        elif unit.attack == "linear_probe":
            self._lengths = PROBE_STEPS if each * images * len(PROBE_STEPS) < 0.2 * LIMIT else ()
            training = 0
        else:
            training = 3 * rates * attack.steps(config, images) * min(images, config.batch_size) + POINTS * (
                rates * WATCHED_VALIDATION + WATCHED_TEST
            )
        if each * training > LIMIT:
            raise ModelError(
                f"`{unit.attack}` with {unit.budget} images a class would take about {each * training:.0f} seconds on "
                f"this machine; up to {LIMIT:.0f} are allowed. Choose fewer images or another attack, or use "
                "scripts/audit.py."
            )
        most = max(60, int(LIMIT / 10 / each))
        return replace(task, validation=_part(task.validation, most // 2), test=_part(task.test, most))

    def run(self) -> Iterator[Progress]:
        """Attack in another thread and give what there is to show, now and again, until the end.

        Closing the iterator, `stop`, or the limit ends the thread at its next step.

        Raises:
            DTLError: the attack failed.
        """
        news: Queue[Progress | Exception | None] = Queue()
        thread = Thread(target=self._attack, args=(news.put,), daemon=True)
        timer = Timer(LIMIT, self.stop.set)
        timer.daemon = True
        thread.start()
        timer.start()
        try:
            while True:
                try:
                    item = news.get(timeout=0.5)
                except Empty:
                    if not thread.is_alive():
                        return
                    continue
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.stop.set()
            timer.cancel()

    def _attack(self, tell: Callable[[Progress | Exception | None], None]) -> None:
        start = time.perf_counter()
        points: list[tuple[int, float]] = []
        attack, budget = find_attack(self.unit.attack), self.unit.budget
        closed = isinstance(attack, KernelRidge)
        steps = budget if closed else attack.steps(self.config, budget * len(self.task.labels))

        def now(**more: object) -> Progress:
            return Progress(tuple(points), steps, time.perf_counter() - start, **more)  # type: ignore[arg-type]

        try:
            context = _Watched(self.model, self._task, self.config, "cpu", self.stop)

            def watch(stack: Stack) -> None:
                points.append((stack.step, _reached(context, stack)))
                tell(now())

            context.watch = watch
            if closed:
                for size in self._lengths:
                    points.append((size, self._result(context, context.watched_test, size)))
                    tell(now())
            elif self.unit.attack == "linear_probe":
                # Its learning rate stays the same, so a shorter attack is the beginning of the longer one.
                for length in self._lengths:
                    context.config = replace(self.config, linear_probe_steps=length)
                    points.append((length, self._result(context, context.watched_test)))
                    tell(now())
                context.config = self.config
            accuracy = self._result(context, self._task.test)
            points = [point for point in points if point[0] < steps] + [(steps, accuracy)]
            tell(now(accuracy=accuracy))
        except Stopped:
            tell(now(stopped=True))
        except (DTLError, MemoryError) as error:
            tell(error)
        except Exception as error:
            tell(ModelError(f"{type(self.model).__name__} failed in this attack ({type(error).__name__})."))
            print(f"attack failed: {error!r}", flush=True)
        finally:
            tell(None)

    def _result(self, context: _Watched, test: ImageTensors, budget: int | None = None) -> float:
        """Accuracy at the end of the attack, of the choice made on validation; guessing when all diverged.

        Args:
            context: the attacker's view.
            test: images that it is tried on.
            budget: images a class; None means those asked for.
        """
        if self.stop.is_set():
            raise Stopped
        ((_, choice, classify),) = train(context, [self.unit._replace(budget=budget or self.unit.budget)])
        return 1 / context.num_classes if choice is None else share_right(classify(test), test.labels)


def _reached(context: _Watched, stack: Stack) -> float:
    """Accuracy on some test images, of the learning rate that is best on some validation images at this step."""
    network, validation, test = stack.network, context.watched_validation, context.watched_test
    best = (-1.0, 0.0)
    for position, member in enumerate(stack.members):
        if not stack.finite[position]:
            continue
        with network.evaluating(stack.result(position), member.images, context.config.eval_batch_size):
            seen = partial(context.predict, network)
            value = share_right(seen(validation.pixel_values), validation.labels)
            if value > best[0]:
                best = (value, share_right(seen(test.pixel_values), test.labels))
    return best[1]


def _part(images: ImageTensors, most: int) -> ImageTensors:
    """At most so many of the images, taken evenly from the first to the last."""
    if len(images) <= most:
        return images
    return images.subset(torch.linspace(0, len(images) - 1, most).long().tolist())
