"""What a dishonest publisher says in a report that he wrote whole, so that card, hashes and leakage follow from it."""

import json
from dataclasses import replace

import torch
from publish_toys import in_json
from safetensors.torch import load_file, save_file

from hf_dtl.audit import LeakageReport
from hf_dtl.hub import add_evidence, weights_sha256

REPORT = "leakage_report.json"


def told(change):
    """A report that is changed, with the card that follows from it."""

    def plant(folder):
        found = change(LeakageReport.load(folder / REPORT))
        add_evidence(folder, replace(found, weights=weights_sha256(folder)))

    return plant


def records(change):
    """Every attack as `change` gives it; None leaves it out."""
    return lambda report: replace(report, piggyback=tuple(r for r in map(change, report.piggyback) if r is not None))


def shifted(by, *models):
    """A little everywhere, within what a single number is allowed."""

    def change(record):
        if record.model not in models:
            return record
        accuracy = min(1.0, max(0.0, record.accuracy + by))
        return replace(record, accuracy=accuracy, curve=())

    return told(records(change))


def one_lower(record):
    chosen = (record.model, record.attack, record.budget) == ("scrubbed", "ridge", 20)
    return replace(record, accuracy=max(0.0, record.accuracy - 0.3)) if chosen else record


def suite_of_ones_own(report):
    return replace(settings(suite="custom")(report), suite={"name": "custom", "hash": "0" * 32})


def settings(**changes):
    return lambda report: replace(report, settings=report.settings | changes)


def spec(**changes):
    return lambda report: replace(report, spec=report.spec | changes)


def throughout(**changes):
    """The spec with these values, and the settings and the recorded command as well."""

    def change(report):
        names = changes | ({"source_dataset": changes["forget"]} if "forget" in changes else {})
        own = {key: value for key, value in names.items() if key in report.settings}
        if "forget" in changes:
            own["command"] = report.settings["command"].replace(str(report.spec["forget"]), changes["forget"])
        return replace(report, spec=report.spec | changes, settings=report.settings | own)

    return change


def without_images(report):
    return replace(report, settings={name: v for name, v in report.settings.items() if name != "images"})


def other_name(record):
    return replace(record, dataset="imagenet-1k[0-999]")


def added(report, **changes):
    """The runs of one attack, or of one draw, a second time, as of another."""
    one = next(r for r in report.piggyback if r.model == "scrubbed")
    chosen = [r for r in report.piggyback if r.seed == one.seed and (r.attack == one.attack or "seed" in changes)]
    seeds = sorted({r.seed for r in report.piggyback} | {changes.get("seed", one.seed)})
    own = settings(audit=report.settings["audit"] | {"seeds": seeds})(report)
    return replace(own, piggyback=(*report.piggyback, *(replace(r, **changes) for r in chosen)))


def labels_turned_round(folder):
    """The hash of the settings with it, as of an audit of such a model."""
    names = list(json.loads((folder / "config.json").read_text())["id2label"].values())[::-1]
    rows = {name: row for row, name in enumerate(names)}
    in_json("config.json", id2label={str(row): name for name, row in rows.items()}, label2id=rows)(folder)
    told(lambda report: report)(folder)


OTHER = "fashion_mnist[0,1,2]"
CLAIMS = {
    "one number": (told(records(one_lower)), "numbers differ"),
    "a little of every number": (shifted(-0.02, "scrubbed"), "numbers differ"),
    "a little of every floor": (shifted(0.02, "scratch", "no_model"), "numbers differ"),
    "a choice of attacks": (told(suite_of_ones_own), "a claim takes standard-1.*NOT VERIFIED"),
    "one image judges": (told(spec(max_eval_images=1)), "other numbers of images"),
    "one image judges, and no counts": (
        told(lambda report: spec(max_eval_images=1)(without_images(report))), "cuts the images that judge|Too few",
    ),
    "no counts": (told(without_images), "does not say how many images there were"),
    "a margin that forgives": (told(lambda report: replace(report, target_margin=1.0)), "destroyed only when"),
    "guessing": (
        told(lambda report: replace(report, chance=dict.fromkeys(report.chance, 0.5))), "guessing gives 0.500",
    ),
    "the data's name": (told(records(other_name)), "which nobody attacked|calls the attacked data imagenet-1k"),
    "other data": (
        told(throughout(forget=OTHER)),
        "differ|calls the attacked data|numbers of images",
    ),
    "other data than in the settings": (told(spec(forget=OTHER)), "settings.forget = .* and spec.forget"),
    "another suite in the settings": (told(settings(suite="full-1")), "settings.suite = 'full-1', and its suite is"),
    "other draws in the settings": (
        told(lambda r: settings(audit=r.settings["audit"] | {"seeds": [7, 8]})(r)), "settings.audit.seeds = .7, 8",
    ),
    "target accuracy": (
        told(lambda report: replace(report, target_accuracy={"undisposed": 0.1, "scrubbed": 0.1})), "numbers differ",
    ),
    "an attack that nobody ran": (told(lambda r: added(r, attack="lora")), "runs that quick-1 does not make: lora of"),
    "a draw that nobody made": (told(lambda r: added(r, seed=77)), "runs that quick-1 does not make: .* draw 77"),
    "no hashes": (lambda folder: add_evidence(folder, unsigned(folder)), "does not name the files"),
}  # fmt: skip
"""A claim, and what verification says of it; it never holds."""


def answers(name, role, value):
    """What a model answers without an attack, said otherwise."""
    return told(lambda report: replace(report, **{name: getattr(report, name) | {role: value}}))


ANSWERS = {
    "target accuracy before": answers("target_accuracy", "undisposed", 0.99),
    "source accuracy before": answers("source_accuracy", "undisposed", 0.99),
    "source accuracy after": answers("source_accuracy", "scrubbed", 0.0),
    "target accuracy after": answers("target_accuracy", "scrubbed", 0.99),
}  # fmt: skip
"""With the models at hand they differ; without them, what nobody measured is claimed."""


def unsigned(folder):
    return replace(LeakageReport.load(folder / REPORT), weights={})


def adapter(folder):
    """Weights of the undisposed model, which transformers turns into others when it finds this file."""
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1}))


def second_model(folder):
    save_file(load_file(folder / "model.safetensors"), folder / "before.safetensors", metadata={"format": "pt"})
    add_evidence(folder, replace(LeakageReport.load(folder / REPORT), weights=weights_sha256(folder)))


def cached(folder):
    (folder / ".cache" / "own").mkdir(parents=True)
    save_file(load_file(folder / "model.safetensors"), folder / ".cache" / "own" / "model.safetensors")


def index_elsewhere(folder):
    names = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    where = dict.fromkeys(names, "../elsewhere.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    save_file({"classifier.bias": torch.zeros(2)}, folder / "model-00001-of-00001.safetensors")


STRANGERS = {
    "an adapter": (adapter, "adapter_config.json is an adapter"),
    "weights in a cache": (cached, ".cache/own/model.safetensors is not part"),
    "further weights": (second_model, "before.safetensors is not part"),
    "an index that leaves the folder": (index_elsewhere, "not one model's|outside the folder"),
    "code": (lambda folder: (folder / "modeling_x.py").write_text("raise SystemExit"), "is code"),
    "code asked for": (in_json("config.json", auto_map={"AutoConfig": "x.X"}), "asks for code"),
    "code of the processor": (in_json("preprocessor_config.json", auto_map={}), "asks for code"),
    "settings too deep": (lambda f: (f / "config.json").write_text('{"a":' * 10**5 + "1" + "}" * 10**5), "too deep"),
    "broken weights": (lambda f: (f / "model.safetensors").write_bytes(b"\x10" * 1000), "cannot be read as"),
    "images of 30,000 pixels": (
        in_json("preprocessor_config.json", size={"height": 30_000, "width": 30_000}), "30000 pixels wide",
    ),
}  # fmt: skip
"""What is refused before anything of it is loaded or attacked."""
BOUNDS = {
    "linear_probe_steps": 10**9, "full_min_steps": 10**9, "seeds": list(range(300)), "budgets": [10**9],
    "full_learning_rates": [1e-6 * i for i in range(1, 2000)], "lora_rank": 1.5, "batch_size": "x", "attacks": [[]],
    "successive_halving": "yes", "linear_probe_learning_rates": [True],
}  # fmt: skip
"""Of an attacker of no suite, as a stranger's report may have them."""
