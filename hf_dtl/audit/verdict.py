"""What a leakage report shows, in words for readers who know nothing of leakage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_dtl.audit.axis_leakage import PLAccuracy
from hf_dtl.audit.text_table import MODELS, with_interval

if TYPE_CHECKING:
    from hf_dtl.audit.report import LeakageReport

# Upper ends of the leakage (of interval and mean + deviation, the worse) that a sentence of the verdict speaks for.
MOST_REMOVED, PART_REMOVED = 0.25, 0.75


def verdict(report: LeakageReport) -> str:
    """Say in plain words what the report shows, reading every number from its less favourable end.

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
    diverged = _diverged(report)
    said += [
        *_tasks(report),
        _accuracies(report),
        _leakage(report, praise=report.target_destroyed is False and not diverged),
    ]
    if diverged:
        said.append(
            f"{diverged} of the attacks on this model failed with every learning rate and count as guessing, so the "
            "leakage may be higher than it looks."
        )
    if report.target_destroyed is None:
        said.append("Target accuracy was not measured, so it is not known whether this model still does its task.")
    said += [_over_retrained(report), _missing(report)]
    if report.seeds == 1:
        said.append("One seed was used, so it is not known how much of these numbers is luck.")
    if report.piggyback:
        said.append(report.attacked_by)
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
    return {"scratch": "random weights", "undisposed": "the model before disposal", "retrained": f"a model {without}"}


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
    compared = {place: points for place, points in places.items() if report.floor in points} or places

    def advantage(place: tuple[str, int]) -> float:
        points = places[place]
        return points["scrubbed"].mean - (points[report.floor].mean if report.floor in points else 0.0)

    dataset, budget = worst = max(compared, key=advantage)
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


def _leakage(report: LeakageReport, *, praise: bool) -> str:
    ratio, what = report.headline, _what(report)
    if ratio.mean is None:
        return f"The leakage is undefined, so nothing is shown about removal: {ratio.undefined}."
    start = _origins(report)[report.floor]
    number = f"leakage over {report.floor} {with_interval(ratio)}, where 1 leaks all and 0 no more than {start}"
    if ratio.mean > 1:
        return f"This method did not remove {what}: it is relearned at least as well as before ({number})."
    if ratio.least_favourable > PART_REMOVED:
        return f"This method did not remove {what}: {number}."
    if not praise:
        return f"The attacks tried here gave the {number}. A stronger attack may recover more."
    if ratio.least_favourable > MOST_REMOVED:
        return f"This method removed a part of {what}: {number}."
    return f"The attacks tried here recovered little of {what}: {number}. A stronger attack may recover more."


def _over_retrained(report: LeakageReport) -> str:
    if report.unlearning is not None:
        gap = report.unlearning.average_gap()
        if gap is None:
            return ""
        return f"Its accuracies are {100 * gap:.1f} points on average away from {_origins(report)['retrained']}."
    ratio = report.headline
    if report.floor == "scratch" or ratio.mean is None or ratio.least_favourable <= 0.1:
        return ""
    still = "is still" if ratio.low is not None and ratio.low > 0 else "may still be"
    return f"It {still} relearned better than {_origins(report)['retrained']}."


def _missing(report: LeakageReport) -> str:
    """The references that this model was not compared with, or not at every budget."""
    places = _points(report).values()
    compared = {name: [role in points for points in places] for role, name in _origins(report).items()}
    absent = [name for name, there in compared.items() if there and not any(there)]
    partly = [name for name, there in compared.items() if any(there) and not all(there)]
    said = [f"It was not compared with {', nor with '.join(absent)}."] if absent else []
    if partly:
        said.append(f"It was compared with {' and with '.join(partly)} at some budgets only.")
    return " ".join(said)
