"""Tables of README.md and docs/, from the results that the studies left and from what the library lists of itself.

In a document a table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between them is written here.
"""

import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hf_dtl
from hf_dtl.audit import LeakageReport
from hf_dtl.audit.attacks.registry import ADAPTIVE, GRID, attack_summaries
from hf_dtl.audit.comparison import methods_table
from hf_dtl.audit.suites import SMALL, SUITES
from hf_dtl.audit.text_table import TextTable
from hf_dtl.methods.registry import find_method, method_summaries
from hf_dtl.pipeline.audit import audit
from study.tables import Average, number
from study.tables.removal import gate_line, removal_rows
from study.tables.suites import suite_table
from study.tuning import without_option

RESULTS = Path(__file__).resolve().parents[1] / "results"
ROOT = RESULTS.parents[2]
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", flags=re.DOTALL)
ATTACKED = "Attacked by `custom`, weaker than a practitioner."
OLD_RULE = "*Relearned* is of an old rule: the strongest attack was chosen by test accuracy, not by validation."
MIA = "MIA: AUC of telling forgotten from unseen images by their loss; 0.5 is guessing."
Result = Mapping[str, Any]


def results_of(study: str, setting: str) -> Result:
    """What a study left."""
    return json.loads((RESULTS / study / setting / "results.json").read_text(encoding="utf-8"))


def written(value: Result | None, digits: int, factor: float = 1.0, **form: Any) -> str:
    """A number of a results file as a table shows it."""
    return number(None if value is None else Average(**value), digits, factor, **form)


def beside(
    first: str, rows: Mapping[str, Sequence[Sequence[str]]], heads: Sequence[Sequence[str]], *notes: str
) -> str:
    """Groups of columns side by side, with blanks where a row lacks a group.

    Args:
        first: heading of the names.
        rows: name → its cells, by group; an empty group is left blank.
        heads: column headings, by group.
        notes: below the table.
    """
    lines = [
        (name, *(cell for group, head in zip(groups, heads, strict=True) for cell in (group or [""] * len(head))))
        for name, groups in rows.items()
    ]
    columns = (first, *(title for head in heads for title in head))
    return TextTable("", columns, tuple(lines), notes).markdown()


def aligned(parts: Sequence[Mapping[str, Sequence[str]]]) -> dict[str, list[Sequence[str]]]:
    """Name → its cells in each part, nothing where a part lacks it; in the order of the first part that has it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: [part.get(name, ()) for part in parts] for name in names}


# The studies --------------------------------------------------------------------------------------------------


def suites() -> str:
    """The suites, and who may claim with them."""
    rows = []
    for suite in SUITES.values():
        config = suite.config(SMALL)
        finalists = f"{config.trial_seeds} for all, {len(suite.seeds)} for the {config.finalists} that lead"
        budgets = ", ".join(map(str, suite.budgets))
        hashes = " / ".join(f"`{digest[:12]}…`" for digest in suite.hashes)
        names = ", ".join(f"`{attack}`" for attack in suite.attacks) if len(suite.attacks) < 12 else "every one below"
        rows.append((f"`{suite.name}`", suite.about, budgets, finalists, names, hashes))
    columns = ("suite", "what for", "images a class", "draws", "attacks", "hash, small / large networks")
    return TextTable("", columns, tuple(rows)).markdown()


def reports(folder: str) -> list[LeakageReport]:
    """The reports in a folder of results, one a method."""
    return [LeakageReport.load(path) for path in sorted((RESULTS / folder).glob("*.json"), reverse=True)]


def main_job() -> str:
    """The main job's methods side by side, with what a first reader needs."""
    found = methods_table(reports("main_job"))
    headline = next(i for i, name in enumerate(found.columns) if name.startswith("leakage over"))
    unasked = ("SLC-AUC", "leakage over scratch")
    shown = [i for i, name in enumerate(found.columns) if i == headline or name not in unasked]
    rows = tuple(tuple(row[i] for i in shown) for row in found.rows)
    return TextTable("", tuple(found.columns[i] for i in shown), rows, found.notes).markdown()


def main_job_suites() -> str:
    """What the main job's suites reach on each model, and what they make of it."""
    suites = {name: reports(f"main_job/{folder}") for name, folder in (("quick-1", "quick-1"), ("standard-1", ""))}
    found: dict[str, dict[tuple[str, int], list[str]]] = {suite: {} for suite in suites}
    for suite, report in ((suite, report) for suite, own in suites.items() for report in own):
        for point in report.axes["source_subset"].pl_accuracy:
            name = report.method.partition(":")[0] if point.model == "scrubbed" else f"({point.model})"
            found[suite][name, point.budget] = [f"{point.mean:.3f}", f"`{point.attack}`"]
    places = sorted({place for own in found.values() for place in own})
    rows = tuple(
        (place[0], str(place[1]), *(cell for own in found.values() for cell in own.get(place, ["", ""])))
        for place in places
    )
    columns = ("model", "images/class", *(title for suite in suites for title in (suite, "by")))
    return TextTable("", columns, rows, ("PL accuracy, and the attack that validation chose.",)).markdown()


def choice_of_suites() -> str:
    """What the largest suite finds beyond the smaller ones."""
    found = json.loads((RESULTS / "suites" / "choice.json").read_text(encoding="utf-8"))
    return replace(suite_table(found), title="").markdown()


def main_job_verdicts() -> str:
    """What each report says in words."""
    found = reports("main_job")
    parts = [f"> **{own.method}**: {own.verdict}" + "".join(f"\n> {flag}" for flag in own.flags) for own in found]
    return "\n\n".join(parts)


def removal() -> str:
    """What finalists keep and leak where weights matter, a part for each setting."""
    parts = []
    for path in sorted((RESULTS / "removal").glob("*/results.json")):
        values = json.loads(path.read_text(encoding="utf-8"))
        parts.append(f"**{values['title']}.** {gate_line(values['summary']['gate'])}\n\n{removal_rows(values)}")
    return "\n".join(parts)


def mnist() -> str:
    """The main job's table on MNIST, which says itself how it was attacked."""
    return (RESULTS / "mnist" / "comparison.md").read_text(encoding="utf-8").strip()


def mnist_by_regression() -> str:
    """The same models under attacks in closed form."""
    report = LeakageReport.load(RESULTS / "mnist" / "by_regression.json")
    found, models = report.axes["source_subset"], ("scrubbed", "undisposed", "scratch", "retrained")
    rows = []
    for model in models:
        points = found.points(model)
        cells = [f"{point.mean:.3f} ± {point.deviation or 0:.3f}" for point in points.values()]
        rows.append((model, *cells, ", ".join(dict.fromkeys(f"`{point.attack}`" for point in points.values()))))
    heads = [f"PL at {budget}" for _, budget in found.points("scrubbed")]
    attacks = " and ".join(f"`{name}`" for name in found.by_attack)
    note = f"Attacked by `custom`, of {attacks}; mean ± deviation over {report.seeds} draws."
    return TextTable("", ("model", *heads, "strongest attack"), tuple(rows), (note,)).markdown()


SETTINGS = {
    "mnist_vit": "MNIST, ViT",
    "mnist_resnet": "MNIST, ResNet",
    "fashion_vit": "Fashion-MNIST, ViT",
    "cifar_vit": "CIFAR-10, ViT",
    "cifar_dinov2": "CIFAR-10, DINOv2",
}


def study() -> str:
    """Leakage over retrained and lost points of every method and setting."""
    parts = []
    for setting in SETTINGS:
        summary = results_of("study", setting)["summary"]
        part = {
            row["method"].split(":")[0]: [
                f"{written(row['over_retrained']['over'], 2)} / {written(row['loss_points'], 1, sign='+')}"
            ]
            for row in summary["rows"]
        }
        retrained = next(row for row in summary["references"] if row["name"] == "retrained")
        parts.append(part | {"(retrained)": [f"0 / {written(retrained['loss_points'], 1, sign='+')}"]})
    rows = aligned(parts)
    rows["(retrained)"] = rows.pop("(retrained)")
    note = (
        "In each place: leakage over retrained / points of target accuracy lost, mean ± deviation over training seeds."
    )
    return beside("method", rows, [[title] for title in SETTINGS.values()], note, ATTACKED)


def study_cost() -> str:
    """What every method cost, by setting."""
    summaries = [results_of("study", setting)["summary"] for setting in SETTINGS]
    parts = [{row["method"].split(":")[0]: [written(row["cost"], 2)] for row in found["rows"]} for found in summaries]
    return beside("method", aligned(parts), [[title] for title in SETTINGS.values()])


def unlearning(place: int, settings: Mapping[str, str], *, mia: bool) -> str:
    """Gap, leakage and cost of removing a part of the data.

    Args:
        place: of the request in the comparisons: 0 a class, 1 a random tenth.
        settings: folder of the results → how its columns are named.
        mia: whether membership inference has a column.
    """
    parts = []
    for setting in settings:
        comparison, part = results_of("unlearning", setting)["comparisons"][place], {}
        for row in (*comparison["references"], *comparison["rows"]):
            method = row.get("cost") is not None
            cells = [written(row["gap"], 1, 100), *([written(row["mia"], 2)] if mia else [])]
            leaked = written(row["leakage"], 2) if method else {"undisposed": "1", "retrained": "0"}[row["name"]]
            name = row["name"].split(":")[0] if method else f"({row['name']})"
            part[name] = [*cells, leaked, written(row.get("cost"), 1, 100, unit=" %")]
        parts.append({name: part[name] for name in sorted(part, key=lambda name: name.startswith("("))})
    heads = [
        [f"{title}: gap", *(["MIA"] if mia else []), "leakage", "cost"] for title in settings.values()
    ]  # fmt: skip
    notes = (
        "Gap: mean distance of forget, retain and test accuracy to the retrained model's, in points. "
        + (f"{MIA} The goal is the retrained model's. " if mia else "")
        + "Leakage: over the retrained model, after relearning; – where it is undefined. Cost: CPU time over that of "
        "retraining, without the one pass over all data that `projected_gradient` and `unseen_label` need.",
    )
    return beside("method", aligned(parts), heads, *notes, ATTACKED)


NETWORKS = {"fashion_vit": "ViT", "fashion_resnet": "ResNet"}
CIFAR_NETWORKS = {"cifar_vit": "ViT", "cifar_resnet": "ResNet"}
INSTANCES = {
    "fashion_vit": "Fashion-MNIST, ViT",
    "fashion_resnet": "Fashion-MNIST, ResNet",
    "cifar_vit": "CIFAR-10, ViT",
    "cifar_resnet": "CIFAR-10, ResNet",
}
VARIANTS = {
    "both": "l2ul (the paper's)",
    "both:margin=0.05:distillation_weight=1:target_ce_weight=0": "our loss, adversarial examples",
    "collages": "collages",
    "undisposed": "(undisposed)",
}


def requests(setting: str) -> Iterator[tuple[list[int], dict[str, Result]]]:
    """Of each request its sizes, and its rows by variant without the learning rate."""
    for request in results_of("instances", setting)["requests"]:
        rows = (*request["rows"], request["undisposed"])
        yield request["sizes"], {re.sub(r":learning_rate=[^,]*", "", row["name"]): row for row in rows}


def instances() -> str:
    """Accuracy on forgotten images and test accuracy lost, by number of images."""
    sizes, lines = (16, 64, 128, 256), {}
    for setting, title in INSTANCES.items():
        single = {size[0]: rows for size, rows in requests(setting) if len(size) == 1}
        for variant, name in VARIANTS.items():
            if variant not in single[sizes[0]]:
                continue
            cells = []
            for size in sizes:
                row = single[size][variant] if size in single else None
                forget = written(row["accuracy"]["forget"], 2) if row else "–"
                cells.append((forget, written(row.get("lost"), 1) if row else "–"))
            largest = single[max(single)][variant]
            lines[f"{title}: {name}"] = [*cells, (written(largest["relearned"], 2), written(largest["mia"], 2))]
    heads = [*((f"k = {size}: D_f", "lost") for size in sizes), ("relearned", "MIA")]
    notes = (
        f"D_f: accuracy on the k images to forget, 0 is wanted. Lost: points of test accuracy. {MIA} Relearned and "
        "MIA are of the largest k. –: not run, or diverged on every seed.",
        OLD_RULE,
    )
    return beside("variant", lines, heads, *notes, ATTACKED)


def requests_in_sequence() -> str:
    """Five requests one after another, served alone or with all earlier ones."""
    lines = {}
    for setting, title in INSTANCES.items():
        rows = next(rows for sizes, rows in requests(setting) if sizes == [16] * 5)
        lines[title] = [
            (written(rows[name]["accuracy"]["forget"], 2), written(rows[name]["lost"], 1))
            for name in ("collages", "collages, cumulative")
        ]
    return beside("5 requests of 16", lines, [("alone: D_f", "lost"), ("cumulative: D_f", "lost")])


ABLATED = {
    "neg_grad_plus:distillation_weight=1:target_ce_weight=0": "neg_grad_plus, distilling",
    "interference_aware:task_projection=false": "without projection",
    "interference_aware:orthogonalisation=none": "without orthogonalisation",
    "interference_aware:task_projection=false:orthogonalisation=none": "without either",
    "interference_aware:distillation_weight=0": "without distillation",
}


def tasks(setting: str) -> str:
    """Images forgotten for all tasks and for two."""
    scopes, parts, below = results_of("tasks", setting)["scopes"], [], []
    for scope in scopes:
        part = {}
        for row in (*scope["rows"], *scope["references"]):
            method, plain = row.get("cost") is not None, without_option(row["name"], "learning_rate")
            known = [task["mean"] for task in row.get("leakage", {}).values() if task["mean"] is not None]
            leaked = f"{sum(known) / len(known):.2f}" if known else "–"
            role = plain.replace("original", "undisposed")  # as the first results call it
            leaked = leaked if method else {"undisposed": "1", "retrained": "0"}[role]
            name = ABLATED.get(plain, plain) if method else f"({role})"
            part[name] = [
                *(written(row["uis"], 3), written(row["mia"], 2), leaked),
                written(row.get("cost"), 0, 100, unit=" %"),
            ]
        parts.append(part)
        side = f"{100 * abs(scope['below']):.0f} % {'below' if scope['below'] >= 0 else 'above'}"
        strongest = without_option(scope["strongest"], "learning_rate")
        goal = 100 * results_of("tasks", setting)["goal"][scope["name"]]
        met = "met" if 100 * scope["below"] >= goal else "missed"
        below.append(f"{side} that of the strongest baseline, `{strongest}` (goal: {goal:.0f} % below, {met})")
    scope_names = ["all tasks", ", ".join(scopes[1]["forgotten"])]
    heads = [[f"{title}: UIS", "MIA", "leakage", "cost"] for title in scope_names]
    notes = (
        f"UIS: 0 where forgotten images are answered as unseen ones were, and all else as it was. {MIA} Leakage: over "
        "the retrained model, mean over the tasks where it is defined. Cost: CPU time over that of retraining. "
        "*without*: parts of `interference_aware` are switched off.",
        f"The UIS of `interference_aware` is, for {scope_names[0]}, {below[0]}; for {scope_names[1]}, {below[1]}.",
        OLD_RULE.replace("*Relearned*", "What the leakage is made from"),
    )
    return beside("strategy", aligned(parts), heads, *notes, ATTACKED)


# The library --------------------------------------------------------------------------------------------------

KINDS = {"task": "a whole task", "part": "a part", "tasks": "several tasks"}


def sentence(documented: object) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())
    return re.split(r"(?<=[a-z0-9`)]\.) (?=[A-Z])", paragraph)[0]


def methods() -> str:
    """Every method, and what it can forget."""
    rows = []
    for name, about in method_summaries().items():
        kinds = find_method(name).config_class.kinds
        rows.append((f"`{name}`", ", ".join(text for kind, text in KINDS.items() if kind in kinds), about))
    return _listed(("method", "forgets", "what it does"), rows)


def attacks() -> str:
    """Every attack, and the set that it is in."""
    sets = dict.fromkeys(GRID, "`grid`") | dict.fromkeys(ADAPTIVE, "`adaptive`")
    rows = ((f"`{name}`", sets.get(name, ""), about) for name, about in attack_summaries().items())
    return _listed(("attack", "set", "what the attacker trains"), rows)


def public_names(kind: str) -> str:
    """Public names of the package with one sentence each.

    Args:
        kind: calls, trainers (with their configs) or classes.
    """
    rows = []
    for name in hf_dtl.__all__:
        found = audit if name == "audit" else getattr(hf_dtl, name)
        trainer = name.endswith(("Trainer", "Config")) and name != "AttackConfig"
        if kind == ("trainers" if trainer else "classes" if inspect.isclass(found) else "calls"):
            rows.append((f"`{name}`", sentence(found)))
    return _listed(("name", "what it is"), rows)


def _listed(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    text = TextTable("", tuple(columns), tuple(map(tuple, rows))).markdown()
    return text.replace("--:", ":--")  # words, not numbers


TABLES: dict[str, Callable[[], str]] = {
    "main_job": main_job,
    "main_job_suites": main_job_suites,
    "main_job_verdicts": main_job_verdicts,
    "choice_of_suites": choice_of_suites,
    **({"removal": removal} if (RESULTS / "removal").is_dir() else {}),
    "mnist": mnist,
    "mnist_by_regression": mnist_by_regression,
    "study": study,
    "study_cost": study_cost,
    "unlearning_class": lambda: unlearning(0, NETWORKS, mia=True),
    "unlearning_random": lambda: unlearning(1, NETWORKS, mia=True),
    "unlearning_cifar_class": lambda: unlearning(0, CIFAR_NETWORKS, mia=False),
    "unlearning_cifar_random": lambda: unlearning(1, CIFAR_NETWORKS, mia=False),
    "instances": instances,
    "requests_in_sequence": requests_in_sequence,
    "tasks_glyphs": lambda: tasks("glyphs"),
    "tasks_fashion_groups": lambda: tasks("fashion_groups"),
    "methods": methods,
    "suites": suites,
    "attacks": attacks,
    "calls": lambda: public_names("calls"),
    "trainers": lambda: public_names("trainers"),
    "classes": lambda: public_names("classes"),
}


def filled(text: str) -> str:
    """A document with its tables written anew.

    Raises:
        KeyError: a table is called as none is.
    """
    return BLOCK.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[4]}", text)
