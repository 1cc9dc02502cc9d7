"""A walk over every image classifier of transformers, whose table stands in docs/architectures.md.

PYTHONPATH=tests python tests/models/test_architectures.py    # writes the table
"""

import copy
import math
import re
import tempfile
from pathlib import Path

import pytest
import torch
from architectures import EVERY
from transformers import AutoModelForImageClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as MAPPING

from hf_dtl.audit.attacks.networks import Trainable, new_head
from hf_dtl.audit.attacks.stack import FineTuning, Stack, agree, batch_order, prepare_for_vmap
from hf_dtl.data import ImageTensors
from hf_dtl.data.processors import channels_of, vision_config
from hf_dtl.errors import DTLError
from hf_dtl.functional import GradientSubspace
from hf_dtl.functional.layer_inputs import projectable
from hf_dtl.methods import GradientCollisionConfig, GradientCollisionTrainer
from hf_dtl.models.heads import MultiHeadClassifier

PAGE = Path(__file__).resolve().parents[2] / "docs" / "architectures.md"
COLUMNS = "| class | | projected layers | attacks | activation checkpointing |\n|:--|:--|:--|:--|:--|\n"
TABLE = re.compile(r"(?<=<!-- architectures -->\n).*?(?=<!-- end -->)", re.DOTALL)
MISSING = {"DinatForImageClassification": "natten", "TimmWrapperForImageClassification": "timm"}


def build(name):
    """A model with random weights; of one that is refused the shapes alone, which may be large."""
    with torch.device("meta" if name == "ShieldGemma2ForImageClassification" else "cpu"):
        torch.manual_seed(0)
        return AutoModelForImageClassification.from_config(EVERY[name]()).eval()


def images_for(model):
    size = getattr(vision_config(model.config), "image_size", None) or 64
    side = size if isinstance(size, int) else size[0]
    return torch.randn(4, channels_of(model.config), side, side, generator=torch.Generator().manual_seed(0))


def comes_back(model, images, folder):
    """Split, exported and loaded again it says the same."""
    split = MultiHeadClassifier(copy.deepcopy(model), task="task").eval()
    split.export("task").save_pretrained(folder)
    loaded = AutoModelForImageClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(pixel_values=images).logits
        torch.testing.assert_close(split(images, task="task"), expected)
        torch.testing.assert_close(loaded(pixel_values=images).logits, expected, rtol=1e-4, atol=1e-5)


def forgets(model, images, folder):
    """A step of the method that asks most: second derivatives of every weight."""
    data = ImageTensors(images.repeat(2, 1, 1, 1), torch.arange(8) % 3)
    args = GradientCollisionConfig(
        output_dir=folder, max_steps=1, per_device_train_batch_size=4, num_chunks=2, chunking="random",
        report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no", learning_rate=1e-3,
    )  # fmt: skip
    trainer = GradientCollisionTrainer(copy.deepcopy(model), args, data, data)
    trainer.train()
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def projected(model, images):
    """Layers whose inputs are seen, of all; the gradient of each lies in the span of these."""
    split = MultiHeadClassifier(copy.deepcopy(model), task="task").eval()
    subspace = GradientSubspace.collect(split, [images[:1]], forward=lambda batch: split(batch, task="task"))
    basis, layers = subspace.basis(threshold=1.0), projectable(split)
    split(images[:1], task="task").square().sum().backward()
    for name in basis.vectors:
        gradient = layers[name].weight.grad
        if gradient is not None and gradient.norm() > 1e-6:
            assert basis.protected_share(name, gradient) > 0.99, name
    return f"{len(basis.vectors)} of {len(layers)}"


def attacked(model, images):
    """Two fine-tunings by one another: whether they may be trained together, by losses and gradients."""
    published = MultiHeadClassifier(copy.deepcopy(model), task="published").eval()
    network, order = Trainable(published, 3), batch_order(4, 4, 2, 0)
    members = [
        FineTuning(
            network.start(new_head(published.num_features, 3, seed), seed), images, torch.arange(4) % 3, order, 1e-3
        )
        for seed in (0, 1)
    ]
    alone, together = (
        Stack(network, members, schedule=lambda *_: 1.0, weight_decay=0.0, max_gradient_norm=1.0, together=together)
        for together in (False, True)
    )
    loss, _ = alone.gradients()
    assert math.isfinite(loss.sum())
    prepare_for_vmap(network)
    try:
        return "together" if agree(alone, together) else "one by one"
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return "one by one"


def row(name):
    """Its line of the table."""
    try:
        model = build(name)
    except ImportError:
        return f"| {name} | not tried: needs the package `{MISSING[name]}` | | | |\n"
    if name == "TimmWrapperForImageClassification":
        images = torch.randn(4, 3, 160, 160)
    elif model.device.type == "cpu":
        images = images_for(model)
    try:
        with tempfile.TemporaryDirectory() as folder:
            MultiHeadClassifier(copy.deepcopy(model))
            comes_back(model, images, folder)
            forgets(model, images, folder)
        found = projected(model, images), attacked(model, images)
    except DTLError as error:
        return f"| {name} | refused: {str(error).partition(':')[0].removeprefix(name).strip()} | | | |\n"
    checkpointing = "yes" if model.supports_gradient_checkpointing else "no"
    return f"| {name} | works | {found[0]} | {found[1]} | {checkpointing} |\n"


def test_the_table_has_every_class_of_transformers():
    classes = {one for found in MAPPING.values() for one in ([found] if isinstance(found, str) else found)}
    assert set(EVERY) == classes


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_a_class_passes_or_is_refused_as_the_table_says(name):
    assert written(name, row(name)) in TABLE.search(PAGE.read_text(encoding="utf-8"))[0]


def written(name, found):
    """The line that is to stand there: of a class that cannot be tried here the one of a machine where it could."""
    before = re.search(rf"^\| {name} \|.*\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return before[0] if "not tried" in found and before else found


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        TABLE.sub(lambda _: COLUMNS + "".join(written(name, row(name)) for name in EVERY), page), encoding="utf-8"
    )
