"""The undisposed model of a run in other weights, called scrubbed: what hardly anybody sees and an attack would."""

import json
from functools import partial

import torch
from audit_toys import report, resnet, vit
from publish_toys import LABELS, WEIGHTS, in_json, save_model, sign
from safetensors.torch import load_file, save_file

PIXELS, HEAD = "vit.embeddings.patch_embeddings.projection.weight", ("classifier.weight", "classifier.bias")
HEAD_OF_RESNET = "classifier.1.weight"


def levels():
    """PL accuracy of the toy report's best floor and of its undisposed model, budget by budget."""
    points = {m: report().axes["source_subset"].points(m) for m in ("retrained", "undisposed")}
    return [[point.mean for _, point in sorted(own.items())] for own in points.values()]


def little_left():
    """A report that says that a tenth is left."""
    return report(scrubbed=[low + 0.1 * (high - low) for low, high in zip(*levels(), strict=True)])


def twin(change=lambda weights: None, labels=LABELS, beside=lambda folder: None, model=vit, **files):
    """The undisposed weights, changed, in place of the scrubbed ones; report and card speak of them.

    Args:
        change: of the weights.
        labels: the classes that the head then has.
        beside: what is done to the folder of the undisposed model.
        model: which one that is.
        files: what of `config` and `preprocessor_config` is changed.
    """

    def plant(folder):
        undisposed = folder.parent / "undisposed"
        for place in (undisposed, folder):
            save_model(model(seed=1), place)
        weights = load_file(undisposed / WEIGHTS)
        change(weights)
        weights = {name: value.contiguous() for name, value in weights.items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
        names = {str(row): label for row, label in enumerate(labels)}
        config = {"id2label": names, "label2id": {label: int(row) for row, label in names.items()}}
        in_json("config.json", **config, **files.get("config", {}))(folder)
        in_json("preprocessor_config.json", **files.get("preprocessor_config", {}))(folder)
        beside(undisposed)
        sign(folder, little_left())

    return plant


def of_head(change):
    def changed(weights):
        for name in HEAD:
            weights[name] = change(weights[name])

    return changed


def higher(weights):
    weights[HEAD[1]] = weights[HEAD[1]] + 5


def other_head(weights):
    weights |= {name: value for name, value in vit().state_dict().items() if name in HEAD}


def darker(weights):
    weights[PIXELS] = weights[PIXELS] / 2


def of_one_colour(weights):
    colours = weights[PIXELS].sum(1, keepdim=True)
    weights[PIXELS] = torch.cat([colours, *[torch.zeros_like(colours)] * 2], 1)


def turned(change):
    """Kernels, and with them what the network sees, mirrored or turned."""

    def changed(weights):
        weights |= {name: change(value) if value.ndim == 4 else value for name, value in weights.items()}

    return changed


def inverted(weights):
    name = "resnet.embedder.embedder.convolution.weight"
    weights[name] = -weights[name]


def among_others(further, head):
    """The channels of the last stage among others that also live, under another head."""

    def changed(weights):
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(0))
        for name in [name for name in weights if ".stages.1.layers.0." in name]:
            value = weights[name]
            if value.ndim == 4:
                value = torch.cat([value, draw(further, *value.shape[1:])])
                if value.shape[1] > 8:
                    fresh = draw(len(value), further, *value.shape[2:])
                    fresh[:-further] = 0
                    value = torch.cat([value, fresh], 1)
            elif value.ndim == 1:
                value = torch.cat([value, (torch.zeros if name.endswith(("bias", "mean")) else torch.ones)(further)])
            weights[name] = value
        weights[HEAD_OF_RESNET] = torch.cat([head(weights[HEAD_OF_RESNET]), draw(3, further)], 1)

    return changed


def units_moved(weights):
    """Hidden units in another order, and one that does nothing."""
    for name in [name for name in weights if ".mlp.fc" in name or "intermediate.dense" in name]:
        other = name.replace("fc1", "fc2").replace("intermediate.dense", "output.dense")
        if name == other:
            continue
        weights[name] = torch.cat([weights[name].flip(0), torch.zeros_like(weights[name][:1])])
        if name.endswith("weight"):
            weights[other] = torch.cat([weights[other].flip(1), torch.zeros_like(weights[other][:, :1])], 1)


def without_settings(folder):
    (folder / "config.json").unlink()


def with_a_stranger(folder):
    save_file({"x": torch.zeros(1)}, folder / "optimizer.safetensors")


def broken(folder):
    (folder / WEIGHTS).write_bytes(b"x" * 100)


def empty(folder):
    for file in folder.iterdir():
        file.unlink()


UNITS = json.loads(vit().config.to_json_string(use_diff=False))["intermediate_size"]
SAME, UNREAD = "are those of .*undisposed .relative distance", "undisposed does not answer as a model does"
TWINS = {
    "the undisposed model, its classes in another order": (
        twin(of_head(lambda value: value.roll(-1, 0)), (*LABELS[1:], LABELS[0])), SAME,
    ),
    "the undisposed model, its logits scaled": (twin(of_head(lambda value: 3 * value)), SAME),
    "the undisposed model, its logits shifted": (twin(higher), SAME),
    "the undisposed model below another head": (twin(other_head), SAME),
    "the undisposed model without a class": (twin(of_head(lambda value: value[:2]), LABELS[:2]), SAME),
    "the undisposed model with a processor of less contrast": (
        twin(darker, preprocessor_config={"image_std": [0.25] * 3}), SAME,
    ),
    "the undisposed model with a processor of larger numbers": (
        twin(darker, preprocessor_config={"rescale_factor": 2 / 255, "image_mean": [1.0] * 3}), SAME,
    ),
    "the undisposed model of grey pictures, reading one colour": (twin(of_one_colour), SAME),
    "the undisposed model with one unit more": (twin(units_moved, config={"intermediate_size": UNITS + 1}), SAME),
    **{
        f"the undisposed model, its kernels {how}": (twin(turned(change), model=resnet), SAME)
        for how, change in {
            "mirrored": lambda value: value.flip(3),
            "transposed": lambda value: value.transpose(2, 3),
            "turned": lambda value: value.rot90(1, (2, 3)),
        }.items()
    },
    "the undisposed model of negatives": (twin(inverted, model=resnet), SAME),
    "the undisposed model among other channels": (
        twin(among_others(5, torch.zeros_like), model=resnet, config={"hidden_sizes": [8, 17]}), SAME,
    ),
    "the undisposed model with one channel more and smaller images": (
        twin(among_others(1, torch.zeros_like), model=resnet, config={"hidden_sizes": [8, 13]},
             preprocessor_config={"size": {"height": 7, "width": 7}}), SAME,
    ),
    "the undisposed model with one channel more and other pixels": (
        twin(among_others(1, torch.zeros_like), model=resnet, config={"hidden_sizes": [8, 13]},
             preprocessor_config={"resample": 0}), SAME,
    ),
    "the undisposed model that takes one size alone": (
        twin(of_head(lambda value: 3 * value), preprocessor_config={"do_resize": False}), SAME,
    ),
    "the undisposed model under another head that takes one size alone": (
        twin(other_head, preprocessor_config={"do_resize": False}), SAME,
    ),
    "the undisposed model with a file beside it": (twin(units_moved, config={"intermediate_size": UNITS + 1},
                                                        beside=with_a_stranger), SAME),
    "the undisposed model without settings": (twin(other_head, beside=without_settings), UNREAD),
    "the undisposed model that cannot be read": (twin(other_head, beside=broken), UNREAD),
    "no undisposed model where one was": (twin(other_head, beside=empty), UNREAD),
}  # fmt: skip
"""Each beside the run that made it; told apart by their answers, features, or weights below the head."""
