"""What a leakage report shows, in words for readers who know nothing of leakage."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hf_dtl.audit.axis_leakage import BEST_FLOOR, PLAccuracy
from hf_dtl.audit.estimate import FORGOTTEN, SHOWN_BELOW
from hf_dtl.audit.text_table import MODELS, with_interval

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport

USUAL_MARGIN = 0.05
"""Drop of target accuracy above which a target task usually counts as destroyed."""


def verdict(report: LeakageReport) -> str:
    """Say in plain words what the report shows: forgotten, leaks, or not shown, as `Estimate.word` defines them.

    The accuracies are those of the budget at which the scrubbed model is worth most to an attacker.

    Args:
        report: the report.

    Returns:
        A few sentences without markup. Where the target task is destroyed they begin with that, and praise nothing.
    """
    target, said = report.target_accuracy, []
    if report.target_destroyed:
        said.append(
            f"The target task was destroyed: its accuracy fell from {target['undisposed']:.3f} to "
            f"{target['scrubbed']:.3f}, so a low leakage is no merit."
        )
    elif report.target_margin > USUAL_MARGIN:
        said.append(f"A drop of target accuracy by up to {report.target_margin:.2f} counts as none here.")
    diverged = _diverged(report)
    said += [
        *_tasks(report),
        _accuracies(report),
        _leakage(report),
    ]
    if diverged:
        said.append(
            f"{diverged} of the attacks on this model failed with every learning rate and count as guessing, so the "
            "leakage may be higher than it looks."
        )
    if report.target_destroyed is None:
        said.append("Target accuracy was not measured, so it is not known whether this model still does its task.")
    said += [_saved(report), _average_gap(report), _missing(report)]
    if report.seeds == 1:
        said.append("One seed was used, so it is not known how much of these numbers is luck.")
    if report.piggyback:
        said.append(report.attacked_by)
    if report.bound is not None:
        said.append(report.bound.sentence)
    return " ".join(sentence for sentence in said if sentence)


def _what(report: LeakageReport) -> str:
    if report.unlearning is not None:
        return report.unlearning.request
    if report.tasks is None:
        return "the source task"
    return str(report.spec["forget"]) if report.spec else "what it was to forget"


def _tasks(report: LeakageReport) -> list[str]:
    """What a model of several tasks answers, where forgetting went worst and where most was lost."""
    tasks = report.tasks
    if tasks is None:
        return []
    scores = {name: task.scores for name, task in tasks.items()}
    lost = {name: own["test"]["undisposed"] - own["test"]["scrubbed"] for name, own in scores.items()}
    above_unseen = {name: own["forget"]["scrubbed"] - own["test"]["undisposed"] for name, own in scores.items()}
    worst = max((name for name, task in tasks.items() if task.forgotten), key=above_unseen.__getitem__)
    most, own = max(lost, key=lost.__getitem__), scores[worst]
    return [
        f"On the images to forget it scores {own['forget']['scrubbed']:.3f} in the task {worst}, where forgetting "
        f"went worst; before it was {own['forget']['undisposed']:.3f}, and images never seen scored "
        f"{own['test']['undisposed']:.3f}.",
        f"Test scores fell by {lost[most]:.3f} at most, in the task {most}."
        if lost[most] > 0
        else "No test score fell.",
    ]


def _origins(report: LeakageReport) -> dict[str, str]:
    """Where a relearner can start, by role, in words."""
    without = "trained on the target task alone"
    if report.part:
        without = "that was trained again without the forgotten images"
    return {
        "undisposed": "the model before disposal", "retrained": f"a model {without}", "base": "the public weights",
        "twin": "a twin (as good at the target, it never saw the source)", "scratch": "random weights",
        "no_model": "no model at all",
    }  # fmt: skip


def _points(report: LeakageReport) -> dict[tuple[str, int], dict[str, PLAccuracy]]:
    """PL accuracy on the source task by data set and budget, then by model; places where the scrubbed one is known."""
    found = report.axes.get("source_subset")
    if found is None:
        return {}
    models = {model: found.points(model) for model in MODELS}
    return {place: {m: own[place] for m, own in models.items() if place in own} for place in models["scrubbed"]}


def _accuracies(report: LeakageReport) -> str:
    """What an attacker reaches, and from where, at the budget that is worst for this model."""
    places = _points(report)
    if not places:
        return ""
    floors = report.axes["source_subset"].floors

    def advantage(place: tuple[str, int]) -> tuple[bool, float]:
        points = places[place]  # a budget without any floor hides none that has one
        return place in floors, points["scrubbed"].mean - (points[floors[place]].mean if place in floors else 0.0)

    dataset, budget = worst = max(places, key=advantage)
    starts = [("scrubbed", "this model"), *_origins(report).items()]
    reached = [f"{_percent(places[worst][role])} from {name}" for role, name in starts if role in places[worst]]
    listed = " and ".join([", ".join(reached[:-1]), reached[-1]] if len(reached) > 1 else reached)
    guessing = f"; guessing gives {100 * report.chance[dataset]:.0f} %" if dataset in report.chance else ""
    named = [name for name, own in (report.tasks or {}).items() if dataset == (own.dataset or name)]
    task = f" in the task {named[0]}" if named else ""
    return (
        f"With {budget} image{'s' if budget > 1 else ''} a class, an attacker who relearns {_what(report)}{task} "
        f"reaches an accuracy of {listed}{guessing}."
    )


def _percent(point: PLAccuracy) -> str:
    noise = "" if point.deviation is None else f" ± {100 * point.deviation:.0f}"
    return f"{100 * point.mean:.0f}{noise} %"


def _diverged(report: LeakageReport) -> int:
    """Runs on the scrubbed model that count as guessing, among those that the leakage is made of."""
    chosen = {(p["scrubbed"].dataset, p["scrubbed"].budget, p["scrubbed"].attack) for p in _points(report).values()}
    runs = (r for r in report.piggyback if r.model == "scrubbed" and r.axis == "source_subset" and r.diverged)
    return sum((run.dataset, run.budget, run.attack) in chosen for run in runs)


def _leakage(report: LeakageReport) -> str:
    """The number and the word for it."""
    ratio, what = report.headline, _what(report)
    if ratio.gate == "weights do not matter":
        return (
            f"This setting shows nothing about {what}: {ratio.undefined}. Who has none of these weights learns it as "
            "well, so neither leakage nor removal can be measured here; take a harder task or fewer images."
        )
    if ratio.mean is None:
        return f"The leakage is undefined, so nothing is shown about removal: {ratio.undefined}."
    start = {**_origins(report), BEST_FLOOR: "from the best floor"}[report.floor]
    number = f"leakage over {report.floor} {with_interval(ratio)}, where 1 leaks all and 0 no more than {start}"
    if ratio.word is None:
        return (
            f"The attacks gave the {number}. That is no verdict: it was compared neither with a model that was "
            "retrained without it nor with the public base model."
        )
    if report.word == "leaks":
        more = ": it is relearned at least as well as before" if ratio.mean >= 1 else ""
        return f"LEAKS: {what} was not removed{more} ({number})."
    if report.word == "forgotten":
        return f"FORGOTTEN, as far as these attacks can tell: {what} ({number})."
    if ratio.word == "forgotten":
        return f"NOT SHOWN by a first look: little of {what} came back ({number}). Only standard-1 may say forgotten."
    return (
        f"NOT SHOWN: neither that {what} leaks nor that it was forgotten ({number}). Forgotten takes at most "
        f"{FORGOTTEN:.2f}, shown to lie below {SHOWN_BELOW:.2f} at every budget and effort."
    )


def _saved(report: LeakageReport) -> str:
    """How many images a class the weights save the attacker."""
    found = report.axes.get("source_subset")
    if found is None or report.headline.mean is None:
        return ""
    dataset, budget = min(found.floors, default=("", 0))
    scrubbed = found.points("scrubbed").get((dataset, budget))
    curve = sorted((b, found.points(floor)[d, b].mean) for (d, b), floor in found.floors.items() if d == dataset)
    if scrubbed is None:
        return ""
    worth = float(budget) if scrubbed.mean <= curve[0][1] else _images_for(scrubbed.mean, curve)
    if worth is not None and round(worth) <= budget:
        return f"With {budget} images a class these weights save the attacker none."
    many = f"about {worth:.0f}" if worth is not None else f"more than {curve[-1][0]}"
    return f"{budget} images a class and these weights are worth as much as {many} images without them."


def _images_for(accuracy: float, curve: list[tuple[int, float]]) -> float | None:
    """Images a class at which a curve of (images, accuracy) reaches an accuracy, by log-linear interpolation."""
    for (few, low), (many, high) in pairwise(curve):
        if low < accuracy <= high:
            return float(few * (many / few) ** ((accuracy - low) / (high - low)))
    return None


def _average_gap(report: LeakageReport) -> str:
    gap = None if report.unlearning is None else report.unlearning.average_gap()
    if gap is None:
        return ""
    return f"Its accuracies are {100 * gap:.1f} points on average away from {_origins(report)['retrained']}."


def _missing(report: LeakageReport) -> str:
    """The references that this model was not compared with, or not at every budget."""
    places = _points(report).values()
    compared = {name: [role in points for points in places] for role, name in _origins(report).items()}
    optional = {_origins(report)[role] for role in ("base", "no_model", "twin")}
    absent = [name for name, there in compared.items() if there and not any(there) and name not in optional]
    partly = [name for name, there in compared.items() if any(there) and not all(there)]
    said = [f"It was not compared with {', nor with '.join(absent)}."] if absent else []
    if report.headline.mean is not None and not report.part and not any("twin" in points for points in places):
        said.append(
            "A part of the leakage may be the target's own: it was not compared with a twin, a model as good at the "
            "target that never saw the source."
        )
    if partly:
        said.append(f"It was compared with {' and with '.join(partly)} at some budgets only.")
    return " ".join(said)
