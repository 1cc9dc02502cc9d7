"""The client's side of the publishing tests: obeys one JSON line after another, as the Hub's address is read once."""

import contextlib
import json
import os
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import torch
import transformers
from audit_toys import report
from drawing import draw_once
from publish_toys import picture
from toy_tasks import OPTIONS, source, target, two_headed
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_dtl import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.data import embedded_processor
from hf_dtl.errors import DTLError
from hf_dtl.hub.publish import publish
from hf_dtl.hub.weights import weights_sha256

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "publish.py"


def script(*words):
    """Run scripts/publish.py; its last words, None when it succeeded."""
    sys.argv = [str(SCRIPT), *words]
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        return str(end.code)
    return None


def begin(*words):
    """The same in a process of its own, whose number it tells."""
    if pid := os.fork():
        return pid
    os._exit(script(*words) is not None)


def refused(repo_id, *folders):
    """The error of publishing each folder."""
    return [error(lambda folder=folder: publish(folder, repo_id)) for folder in folders]


def load(repo_id, revision=None):
    """Logits of two images from the published weights, and what the pipeline says of the first."""
    try:
        model = AutoModelForImageClassification.from_pretrained(repo_id, revision=revision).eval()
        processor = AutoImageProcessor.from_pretrained(repo_id, revision=revision)
    except (OSError, ValueError) as failed:
        return str(failed)
    images = [picture(0), picture(1)]
    with torch.no_grad():
        logits = model(**processor(images, return_tensors="pt")).logits
    answers = pipeline("image-classification", repo_id, revision=revision)(images[0])
    return {"logits": logits.tolist(), "scores": {answer["label"]: answer["score"] for answer in answers}}


def trainer(folder, repo_id):
    """Publish from a trainer; the errors of every way that must be refused, and at last the address."""
    args = GradientCollisionConfig(folder, hub_model_id=repo_id, **OPTIONS)

    def new():
        data = {"forget_dataset": source(), "retain_dataset": target()}
        return GradientCollisionTrainer(two_headed(), args, processing_class=embedded_processor(16), **data)

    t = new()
    t.save_model(Path(folder) / "scrubbed")
    found = replace(report(), weights=weights_sha256(Path(folder) / "scrubbed"))
    other = replace(report(), weights={"model.safetensors": "0" * 64})
    refusals = {
        "no report": t.push_to_hub,
        "report of other weights": lambda: t.push_to_hub(report=other),
        "Trainer's card": t.create_model_card,
        "a checkpoint": lambda: t._push_from_checkpoint(folder),
    }
    errors = {name: error(work) for name, work in refusals.items()}
    args.push_to_hub = True  # the config refuses it, but a field can be set
    errors["push_to_hub=True"] = error(new)
    args.push_to_hub = False
    return {"errors": errors, "url": t.push_to_hub("Scrubbed", report=found, private=False).url}


def error(work):
    try:
        return f"no error, but {work()}"
    except DTLError as refused:
        return f"{type(refused).__name__}: {refused}"


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    draw_once()
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what scripts print is no reply
    commands = {work.__name__: work for work in (script, begin, refused, load, trainer)}
    for line in sys.stdin:
        name, token, words = json.loads(line)
        os.environ.pop("HF_TOKEN", None)
        os.environ |= {"HF_TOKEN": token} if token else {}
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(commands[name](*words)), file=replies, flush=True)
