"""Multi-task unlearning: requests, labels and options that are refused, and the forms that agree."""

import dataclasses

import pytest
import torch
from multitask_toys import PARTIAL, ROWS, TASKS, Toy, build, fresh, learned, toy
from transformers import HfArgumentParser

from hf_dtl.errors import ConfigError, DataError, DivergedError, ModelError
from hf_dtl.methods.multitask_config import MultiTaskUnlearningConfig
from hf_dtl.methods.task_pairs import forget_table, full_task, partial_task


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        (partial_task([1], ["colour"]), "no task 'colour'; the model's tasks are: shape, side, size"),
        ({"colour": [True] * 48}, "no task 'colour'"),
        (full_task([3, 48]), r"Rows \[48\] to forget are not among the 48 images"),
        (full_task([-1]), "not among the 48"),
        (full_task([]), "no pair of an image and a task to forget"),
        (partial_task([1], []), "no pair of an image and a task to forget"),
        (torch.zeros(48, 3, dtype=torch.bool), "no pair of an image and a task to forget"),
        (torch.ones(48, 3, dtype=torch.bool), "nothing is left to retain"),
        (full_task(range(48)), "nothing is left to retain"),
        (
            torch.ones(48, 2, dtype=torch.bool),
            r"tasks shape, side, size\) to forget must be boolean of shape \(48, 3\)",
        ),
        (torch.ones(48, 3), "got torch.float32"),
        ({"side": [True] * 47}, r"column of task 'side' to forget must be boolean of shape \(48,\)"),
    ],
)
def test_bad_requests(tmp_path, forget, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path, forget)


def test_the_forms_of_a_request_agree():
    table = torch.zeros(48, 3, dtype=torch.bool)
    table[list(ROWS), 0] = True
    column = [row in ROWS for row in range(48)]
    for forget in (PARTIAL, table, {"shape": column}, {"side": [False] * 48, "shape": torch.tensor(column)}):
        assert torch.equal(forget_table(forget, 48, TASKS), table)
    table[list(ROWS)] = True
    assert torch.equal(forget_table(full_task([*ROWS, *ROWS]), 48, TASKS), table), "twice is once"
    with pytest.raises(DataError, match="must be a list of names"):
        partial_task([1], "shape")


def changed(**labels):
    return Toy(toy().pixel_values, {t: v for t, v in (toy().labels | labels).items() if v is not None})


class Items(Toy):
    """Labels in the items alone."""

    labels = None

    def __init__(self, data):
        self.pixel_values, self.items = data.pixel_values, data.labels

    def __getitem__(self, index):
        return {"pixel_values": self.pixel_values[index], "labels": {t: v[index] for t, v in self.items.items()}}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (changed(side=None), DataError, "no label for task 'side' of the model"),
        (Items(changed(side=None)), DataError, "no label for task 'side' of the model"),
        (changed(side=torch.full((48,), 2)), DataError, "label 2 for task 'side'; its classes are 0..1"),
        (changed(shape=torch.tensor([-100] + [0] * 47)), DataError, "Image 0 has the label -100 for task 'shape'"),
        (changed(size=torch.full((48,), torch.nan)), DataError, "Image 0 has the label nan for task 'size'"),
        (changed(side=torch.rand(48)), ModelError, "a regression, but its head has 2 outputs"),
        (changed(side=torch.zeros(47, dtype=torch.long)), DataError, r"shape \(47,\); 48 images"),
        (Toy(torch.zeros(0, 3, 8, 8), {}), DataError, "data set is empty"),
    ],
)
def test_bad_labels(tmp_path, data, error, message):
    with pytest.raises(error, match=message):
        build(tmp_path, torch.zeros(len(data), 3, dtype=torch.bool), data=data)


def test_labels_in_items_alone_will_do(tmp_path):
    one, two = (build(tmp_path, data=data, strategy="fine_tune", max_steps=1) for data in (toy(), Items(toy())))
    assert torch.equal(one.train_dataset.retain.labels.nan_to_num(), two.train_dataset.retain.labels.nan_to_num())
    assert one.scales == two.scales


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "ours"}, "strategy='ours' is unknown; use one of: interference_aware, retrain"),
        ({"orthogonalisation": "half"}, "orthogonalisation='half' must be one of: none, full, conflict"),
        ({"retain_gradients": "all"}, "retain_gradients='all' must be"),
        ({"criterion": "rank"}, "criterion='rank' must be"),
        ({"chunking": "class"}, "chunking='class' must be one of: random"),
        ({"retain_inputs": "both"}, "retain_inputs='both' must be one of: target"),
        ({"forget_weight": 0.0}, "use strategy='fine_tune'"),
        ({"forget_weight": -1.0}, "forget_weight=-1.0 must be >= 0"),
        ({"forgotten_share": 0.0}, r"forgotten_share=0.0 must be in \(0, 1\]"),
        ({"untouched_share": float("nan")}, "untouched_share=nan must be in"),
        ({"saliency": 1.1}, "saliency=1.1 must be in"),
        ({"max_until": 0.0}, "max_until=0.0 must be in"),
        ({"subspace_images": 0}, "subspace_images=0 must be >= 1"),
        ({"delta": 0.0}, "delta=0.0 must be > 0"),
        ({"entropy_weight": -0.1}, "entropy_weight=-0.1 must be >= 0"),
        ({"forget_until": "never"}, "forget_until='never' must be one of: steps, unseen"),
        ({"forget_until": "unseen"}, "needs held-out images"),
        ({"strategy": "retrain", "distillation_weight": 1.0}, "distillation_weight=1.0 must be 0"),
        ({"bf16": True}, "bf16 cannot be combined with the gradient of every image"),
        ({"activation_checkpointing": True}, "activation_checkpointing cannot be combined"),
        ({"untouched_share": 1.0}, "protects every direction of the backbone"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, model=learned(), **options)


def test_models_that_do_not_fit(tmp_path):
    with pytest.raises(ModelError, match="Expected a MultiHeadClassifier, one head a task, got ViTForImage"):
        build(tmp_path, model=fresh().export("shape"))
    lone = fresh()
    lone.remove_head("shape")
    with pytest.raises(ModelError, match="one label, 'all': it answers that for every image"):
        lone.add_head("shape", ["all"])


def test_a_run_that_diverges_stops(tmp_path):
    model = learned()
    t = build(tmp_path, model=model, learning_rate=1e30, max_grad_norm=0.0, max_steps=5)
    with pytest.raises(DivergedError, match="became non-finite"):
        t.train()


def test_every_option_is_explained_and_can_be_given_in_words(tmp_path):
    parser = HfArgumentParser(MultiTaskUnlearningConfig)
    words = ["--output_dir", str(tmp_path), "--strategy", "scrub", "--forget_weight", "0.5", "--task_projection", "no"]
    (args,) = parser.parse_args_into_dataclasses([*words, "--orthogonalisation", "conflict", "--use_cpu"])
    assert (args.strategy, args.forget_weight, args.task_projection) == ("scrub", 0.5, False)
    own = MultiTaskUnlearningConfig.__annotations__
    own = [field for field in dataclasses.fields(MultiTaskUnlearningConfig) if field.name in own]
    assert own and all(field.metadata.get("help") for field in own)
    parser.format_help()
