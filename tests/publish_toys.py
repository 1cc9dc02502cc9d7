"""The output folder of a tiny run that may be published, and every leak that somebody could leave in it."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from audit_toys import report, tasks_report, vit
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from hf_dtl.audit import LeakageReport
from hf_dtl.data import embedded_processor
from hf_dtl.hub import leakage_card
from hf_dtl.hub.model_settings import written
from hf_dtl.hub.staging import add_evidence
from hf_dtl.hub.weights import weights_sha256

LABELS = ("6", "7", "8")
TASK, OTHER, NUMBER = "case", "weight", "rotation"
TOKEN = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz01234567"
WEIGHTS = "model.safetensors"


def picture(seed):
    """A small photograph of noise."""
    noise = torch.randint(0, 256, (8, 8, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def save(model, folder, found=None):
    """Write a model with its processor, report and card."""
    save_model(model, folder)
    sign(folder, found or report())


def save_model(model, folder, labels=LABELS):
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: i for i, label in enumerate(labels)}
    model.eval().save_pretrained(folder)
    embedded_processor(8).save_pretrained(folder)


def top(folder):
    """The published folder of one of its models."""
    return folder.parent if folder.name in (TASK, OTHER, NUMBER) else folder


def sign(folder, found=None):
    """Let report and card speak of the weights that are there now."""
    folder = top(folder)
    found = replace(found or LeakageReport.load(folder / "leakage_report.json"), weights=weights_sha256(folder))
    found.save(folder / "leakage_report.json")
    write_card(folder, found)


def write_card(folder, found, plots=True):
    plots = [f"plots/{path.name}" for path in folder.glob("plots/*.png")] if plots else []
    if found.tasks:
        labels = {task: (NUMBER,) if task == NUMBER else LABELS for task in found.tasks}
    else:
        labels = list(json.loads((folder / "config.json").read_text())["id2label"].values())
    leakage_card(found, model_labels=labels, plots=plots).save(folder / "README.md")


def finished_tasks(output):
    """What a run on several tasks leaves to be published: a folder a task, and one report, card and set of plots."""
    folder = output / "scrubbed"
    for seed, task in enumerate((TASK, OTHER)):
        save_model(vit(seed=seed), folder / task)
    number = vit(num_labels=1, seed=3)
    number.config.problem_type = "regression"
    save_model(number, folder / NUMBER, (NUMBER,))
    attacks = (replace(r, dataset="glyphs, case") for r in report().piggyback if r.axis == "source_subset")
    add_evidence(folder, tasks_report(piggyback=tuple(attacks), weights=weights_sha256(folder)))
    (output / "stages").mkdir()
    (output / "stages" / "tasks.json").write_text("{}")
    return output


def finished_run(output):
    """What a run leaves: the scrubbed model to publish, and beside it all that stays private."""
    save(vit(), output / "scrubbed")
    add_evidence(output / "scrubbed", LeakageReport.load(output / "scrubbed" / "leakage_report.json"))
    vit(seed=1).save_pretrained(output / "undisposed")
    shutil.copytree(output / "undisposed", output / "stages" / "adapt" / "checkpoint-5")
    (output / "stages" / "adapt" / "training_args.bin").write_bytes(b"pickle")
    (output / "run.json").write_text(json.dumps({"forget": "/home/ann/photos", "token": TOKEN}))
    shutil.copy(output / "scrubbed" / "leakage_report.json", output)
    shutil.copytree(output / "scrubbed" / "plots", output / "plots")
    return output


def write(name, content="x"):
    """A leak that is a file of its own."""

    def plant(folder):
        path = folder / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return plant


def without(name):
    return lambda folder: (folder / name).unlink()


def in_json(name, **changes):
    def plant(folder):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(written(content | changes))

    return plant


def in_card(text, instead=None):
    def plant(folder):
        card = (folder / "README.md").read_text()
        assert instead is None or instead in card
        (folder / "README.md").write_text(card + text if instead is None else card.replace(instead, text))

    return plant


def in_picture(text):
    def plant(folder):
        info = PngImagePlugin.PngInfo()
        info.add_text("Comment", text, zip=True)
        with Image.open(folder / "plots" / "attacks.png") as image:
            image.save(folder / "plots" / "attacks.png", pnginfo=info)

    return plant


def in_weights(change, metadata=None):
    """Weights that were changed before they were audited, so that report and card speak of them."""

    def plant(folder):
        weights = load_file(folder / WEIGHTS)
        change(weights)
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt", **(metadata or {})})
        sign(folder)

    return plant


def further_head(weights):
    weights["source_head.weight"] = torch.zeros(6, 16)


def longer_head(weights):
    weights["classifier.weight"], weights["classifier.bias"] = torch.zeros(9, 16), torch.zeros(9)


def without_head(weights):
    del weights["classifier.weight"]


def same_weight_by_two_names(weights):
    """Old and new releases name a layer differently; the loader takes one of them and drops the other."""
    old = next(name for name in weights if name.endswith("layer.0.attention.attention.query.weight"))
    weights[old.replace("encoder.layer.0.attention.attention.query", "layers.0.attention.q_proj")] = weights[old] + 1


def source_labels(folder):
    names = dict(enumerate((*LABELS, "cat", "dog")))
    in_json("config.json", id2label=names, label2id={label: i for i, label in names.items()})(folder)


def link_out(name):
    def plant(folder):
        elsewhere = top(folder).parents[1] / "elsewhere"
        elsewhere.mkdir(exist_ok=True)
        path = folder / name
        if path.is_dir():
            shutil.copytree(path, elsewhere / path.name)
            shutil.rmtree(path)
        else:
            shutil.move(path, elsewhere)
        path.symlink_to(elsewhere / path.name)

    return plant


def two_models(folder):
    in_json("config.json")(folder)
    (folder / f"{WEIGHTS}.index.json").write_text(
        json.dumps({"weight_map": {"classifier.bias": "model-1.safetensors"}})
    )


def other_weights(folder):
    other = top(folder).parent / "other"
    vit(seed=2).save_pretrained(other)
    shutil.copy(other / WEIGHTS, folder)


def report_without_weights(folder):
    in_json("leakage_report.json", weights={})(folder)


LEAKS = {
    "a further head": (in_weights(further_head), "no place for: source_head.weight"),
    "a longer head": (in_weights(longer_head), r"`classifier.bias` has the shape \(9,\).*3 labels"),
    "an incomplete model": (in_weights(without_head), "lack classifier.weight"),
    "a layer by two names": (in_weights(same_weight_by_two_names), "names that are skipped"),
    "labels longer than the head": (source_labels, "names 5 labels"),
    "labels of no row": (in_json("config.json", label2id={"6": 0, "7": 1, "8": 2, "cat": 3}), "not have: cat"),
    "a further weights file": (write("source_head.safetensors"), "source_head.safetensors is not part.*forgotten"),
    "two models": (two_models, "not one model's: model.safetensors besides"),
    "another architecture": (in_json("config.json", model_type="bert"), "does not load with AutoModelForImage"),
    "training arguments": (write("training_args.bin"), "training_args.bin is a trainer's state"),
    "optimizer": (write("optimizer.pt"), "optimizer.pt is a trainer's state"),
    "trainer's state": (write("trainer_state.json", "{}"), "trainer's state"),
    "checkpoint": (write("checkpoint-5/model.safetensors"), "trainer's state"),
    "pickled weights": (write("pytorch_model.bin"), "pickle or an archive"),
    "pickled head": (write("plots/head.pkl"), "pickle or an archive"),
    "lightning": (write("last.ckpt"), "pickle or an archive"),
    "torch file": (write("head.pth"), "pickle or an archive"),
    "arrays": (write("features.npz"), "pickle or an archive"),
    "adapter's weights": (write("adapter_model.safetensors"), "adapter_model.safetensors is an adapter"),
    "adapter's settings": (write("adapter_config.json", "{}"), "an adapter that was not merged"),
    "several heads": (write("tasks.json", "{}"), "the list of several heads"),
    "code": (write("modeling_mine.py"), "modeling_mine.py is code"),
    "code asked for": (in_json("config.json", auto_map={"AutoModel": "m.M"}), "config.json asks for code.*auto_map"),
    "processor's code": (in_json("preprocessor_config.json", auto_map={}), "preprocessor_config.json asks for code"),
    "notes": (write("notes.txt"), "notes.txt is not part of a published model"),
    "deep picture": (write("plots/old/attacks.png"), "attacks.png is not part of a published model"),
    "home in the settings": (in_json("config.json", _name_or_path="/home/ann/vit"), "config.json names a.*/home/"),
    "run in the settings": (in_json("config.json", _name_or_path="runs/vit"), "config.json has the key _name_or_path"),
    "home in the processor": (in_json("preprocessor_config.json", path="~/vit"), "local folder: ~/vit"),
    "drive in the settings": (in_json("config.json", note=r"C:\Users\ann"), "local folder: C:"),
    "folder in the report": (in_json("leakage_report.json", machine={"log": "/srv/lab/log"}), "local.*/srv/lab/log"),
    "folder in the card": (in_card("\nTrained with `--data=/scratch/ann/x`.\n"), "local folder: /scratch/ann/x"),
    "folder in a list": (in_card("\nPYTHONPATH=lib:/scratch/ann/lib\n"), "local folder: /scratch/ann/lib"),
    "address of a file": (in_card("\n[log](file:///log)\n"), "local folder: file:///log"),
    "folder in the weights": (in_weights(dict, {"run": "/home/ann/run"}), "carries texts beside its weights .run."),
    "token in the card": (in_card(f"\nlogin {TOKEN}\n"), r"README.md holds a Hugging Face token \(hf_AbC\.\.\.\)"),
    "token in the settings": (in_json("config.json", note=TOKEN), "config.json holds a Hugging Face token"),
    "token as a key": (in_json("preprocessor_config.json", note={TOKEN: 1}), "json holds a Hugging Face token"),
    "token in the report": (in_json("leakage_report.json", machine={"key": "AKIA" + "Z2" * 8}), "holds an AWS key"),
    "token in the weights": (in_weights(dict, {"key": TOKEN}), "carries texts beside its weights .key."),
    "password": (in_card("\nhttps://ann:secret@example.org/x\n"), "password in an address"),
    "linked file": (link_out("config.json"), "config.json is a link out of the folder"),
    "linked folder": (link_out("plots"), "plots is a link out of the folder"),
    "no settings": (without("config.json"), "config.json is missing"),
    "no weights": (without(WEIGHTS), "model.safetensors missing"),
    "no processor": (without("preprocessor_config.json"), "preprocessor_config.json or .* is missing"),
    "no card": (without("README.md"), "README.md is missing"),
    "broken report": (in_json("leakage_report.json", leakage={}), "not a valid report"),
    "better report": (in_json("leakage_report.json", target_accuracy={"undisposed": 1, "scrubbed": 1}), "README.md"),
    "report without weights": (report_without_weights, "does not say which weights"),
    "report of other weights": (other_weights, "does not belong to these weights: model.safetensors"),
    "card's number": (in_card("value: 0.49", "value: 0.75"), "metadata of README.md say.*value 0.49, not 0.75"),
    "card's claim": (in_card("target_destroyed: null", "target_destroyed: false"), "target_destroyed None, not"),
    "card without metadata": (write("README.md", "# A model\n"), "metadata of README.md say .* 'nothing', not"),
    "card with broken metadata": (in_card("---\n: [\n", "---\ndatasets:\n"), "README.md cannot be"),
    "picture of the card": (without("plots/attacks.png"), "shows plots/attacks.png, which is missing"),
    "broken settings": (write("preprocessor_config.json", "{"), "preprocessor_config.json is not readable"),
}  # fmt: skip


EVIDENCE = re.compile(r"card|report|picture|pickled head|folder in a list|address|password|linked folder")
"""Of these leaks, those that are not in a model's own files: in a folder of several tasks they are at its top."""


def another_task(folder):
    shutil.copytree(folder / TASK, folder / "cat")


def one_task_less(folder):
    shutil.rmtree(folder / NUMBER)
    sign(folder)


def task_not_in_the_report(folder):
    found = LeakageReport.load(folder / "leakage_report.json")
    told = {name: value for name, value in found.weights.items() if not name.startswith(OTHER)}
    tasks = {name: task for name, task in found.tasks.items() if name != OTHER}
    found = replace(found, tasks=tasks, weights=told)
    found.save(folder / "leakage_report.json")
    write_card(folder, found)


def classes_for_number(folder):
    found = LeakageReport.load(folder / "leakage_report.json")
    sign(folder, replace(found, tasks={**found.tasks, OTHER: found.tasks[NUMBER]}))


def model_beside(folder):
    for name in ("config.json", WEIGHTS):
        shutil.copy(folder / TASK / name, folder)


def better_score(folder):
    content = json.loads((folder / "leakage_report.json").read_text())
    content["tasks"][TASK]["scores"]["test"]["scrubbed"] = 0.9
    (folder / "leakage_report.json").write_text(json.dumps(content))


def undisposed_task(folder):
    """One of several, beside others that were disposed of."""
    before = Path(shutil.copytree(folder, folder.parent / "undisposed"))
    for task in (OTHER, NUMBER):
        other_weights(before / task)


TASK_LEAKS = {
    "an undisposed task": (undisposed_task, "nothing was scrubbed from them"),
    "another task": (
        another_task,
        "speaks of the tasks case, rotation, weight, not of models in the folders case, cat",
    ),
    "a task that is not in the report": (task_not_in_the_report, "speaks of the tasks case, rotation, not of models"),
    "one task less": (
        one_task_less,
        "speaks of the tasks case, rotation, weight, not of models in the folders",
    ),
    "a head of another kind": (classes_for_number, "weight: its head is not that of a task of the kind 'regression'"),
    "a model beside the tasks": (model_beside, "is not part of a published model"),
    "weights beside the tasks": (write(WEIGHTS), "is not part of a published model, and may be a head"),
    "a folder in a task's folder": (write(f"{TASK}/old/config.json", "{}"), "is not part of a published model"),
    "a task of other weights": (
        lambda folder: other_weights(folder / TASK),
        "does not belong to these weights: case/model.safetensors",
    ),
    "a task without settings": (without(f"{NUMBER}/config.json"), "is not part of a published model"),
    "a task's better score": (better_score, "metadata of README.md say model-index"),
    "a linked task": (link_out(NUMBER), "rotation is a link out of the folder"),
}


# A folder without settings is none of a task, and its weights are named otherwise: see above.
LEAKS_OF_TASKS = {
    n: leak for n, leak in LEAKS.items() if n not in ("no settings", "report of other weights")
} | TASK_LEAKS


def planted(run, name, folder):
    """A copy of a finished run with one leak in the folder that would be published."""
    output = Path(shutil.copytree(run, folder / "run", symlinks=True))
    scrubbed = output / "scrubbed"
    if name in TASK_LEAKS:
        TASK_LEAKS[name][0](scrubbed)
    else:
        in_task = (scrubbed / TASK).exists() and not EVIDENCE.search(name)
        LEAKS[name][0](scrubbed / TASK if in_task else scrubbed)
    return output
