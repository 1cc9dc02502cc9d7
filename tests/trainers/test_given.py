"""What a user of the trainers gives besides tables: data sets of torch, frozen models, arguments of Trainer."""

import datasets
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset, Subset, default_collate
from trainer_toys import NAMES, PROCESSOR, UNNAMED, items, model, table

import hf_dtl
from hf_dtl.data import ImageTensors, embedded_processor, load_images, load_multitask_images, load_task
from hf_dtl.errors import ConfigError, DataError, ModelError
from hf_dtl.trainers.head_rows import task_rows
from hf_dtl.trainers.items import labelled_items
from hf_dtl.trainers.multitask_training import measure_tasks, predict_tasks, with_task_heads
from hf_dtl.trainers.streams import PairedStreams
from hf_dtl.trainers.training import fit_head

DIGITS = ("2", "0", "1")


class Own(Dataset):
    """A data set as users write them."""

    def __init__(self, labels, pixels=None):
        self.rows = [{"pixel_values": torch.zeros(3, 16, 16), "labels": label} for label in labels]
        for row, given in (pixels or {}).items():
            self.rows[row]["pixel_values"] = given

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, row):
        return self.rows[row]


def drawn(dataset):
    """All items as a trainer draws them."""
    found = items(dataset)
    streams = PairedStreams(
        found, found, num_chunks=1, chunk_size=len(found), retain_chunk_size=1, chunking="random", seed=0
    )
    return streams[0]["forget"]["labels"]


@pytest.mark.parametrize("label", [2, torch.tensor(2), torch.tensor([2]), torch.tensor(2, dtype=torch.uint8)])
def test_a_label_is_a_whole_number_in_any_form(label):
    assert sorted(drawn(Own([0, label, 1])).tolist()) == [0, 1, 2]


def test_classes_that_a_data_set_names_itself_are_matched_by_name(caplog):
    """As torchvision's folders do, also within a Subset."""
    own = Own([0, 1, 2])
    own.classes = ["fox", "Cat", "dog"]
    for given, rows in ((own, [2, 0, 1]), (Subset(own, [2, 0]), [1, 2])):
        caplog.clear()
        found = items(given)
        assert [found[i]["labels"] for i in range(len(rows))] == rows
        assert "its labels number its classes (fox, Cat, dog); they are matched" in caplog.text
    own.classes = ["fox", "cat", "owl"]
    with pytest.raises(DataError, match="has the classes owl"):
        items(own)


@pytest.mark.parametrize(
    ("label", "error", "message"),
    [
        (-100, DataError, "1 of 1 images have no label .* row 2"),
        (-1, DataError, "no label"),
        (9, DataError, "The forget data set: 1 of 1 images have a label above 2, .*: row 2"),
        ("fox", ConfigError, "item 2 has the labels 'fox'"),
        (torch.tensor(True), ConfigError, "item 2 has the labels True"),
        (None, ConfigError, "item 2 is pixel_values, labels"),
    ],
)
def test_a_label_that_no_row_has_is_told_wherever_it_is(label, error, message):
    with pytest.raises(error, match=message):
        drawn(Own([0, 1, label]))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (torch.zeros(16, 16, 3), r"torch.float32, \(16, 16, 3\); .* of 3 channels"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), "torch.uint8"),
        (torch.full((3, 16, 16), torch.nan), "of finite values"),
        (Image.new("RGB", (16, 16)), "of item 2 are Image"),
    ],
)
def test_pixels_that_a_processor_does_not_make_are_refused(pixels, message):
    with pytest.raises(DataError, match=message):
        drawn(Own([0, 1, 2], {2: pixels}))


def test_parts_of_tables_are_tables(tmp_path):
    """As random_split makes them."""
    data = table([0, 1, 2]).with_transform(
        lambda batch: {"pixel_values": [torch.zeros(3, 16, 16)] * len(batch["label"]), "labels": batch["label"]}
    )
    found = items(Subset(Subset(data, [2, 1, 0]), [0, 2]), ("fox", "cat", "dog"))
    assert [found[i]["labels"] for i in range(2)] == [0, 1]
    with pytest.raises(ConfigError, match="concatenate_datasets"):
        items(ConcatDataset([data, data]))


def test_pixels_that_were_not_prepared_are_told(caplog):
    drawn(Own([0, 1], {0: torch.full((3, 16, 16), 255.0)}))
    assert "its pixel_values reach 255" in caplog.text


def test_tensors_are_checked_at_once():
    with pytest.raises(DataError, match="1 of 2 images have no label"):
        items(ImageTensors(torch.zeros(2, 3, 16, 16), torch.tensor([0, -100])))


def test_numbers_are_names_where_the_rows_are_named_by_numbers(caplog):
    """A head whose rows are named 2, 0, 1: the digit 0 of a table is its second row, as for the command line."""
    assert items(table([0, 1, 2], datasets.Value("int64")), DIGITS).labels.tolist() == [1, 2, 0]
    assert "a label is the row of that name" in caplog.text
    caplog.clear()
    assert items(table([0, 1, 2], datasets.Value("int64")), ("0", "1", "2")).labels.tolist() == [0, 1, 2]
    assert not caplog.text
    assert items(table([2, 0], datasets.Value("int64")), ("cat", "dog", "fox")).labels.tolist() == [2, 0]
    assert "its labels are rows of the head, which are named cat, dog, fox: 0 is 'cat'" in caplog.text
    assert items(Own([0, 1]), DIGITS)[1]["labels"] == 1
    assert "its labels are rows of the head, which are named 2, 0, 1: 0 is '2'" in caplog.text


def test_two_orders_of_classes_are_refused_where_rows_have_no_names():
    order = datasets.ClassLabel(names=[*NAMES[::-1]])
    given = {"forget": (table([0, 1]), "own"), "retain": (table([0, 1], order), "own")}
    with pytest.raises(DataError, match="the class 'fox' has the number 2 in the forget data set, 0 in the retain"):
        labelled_items(given, model(UNNAMED), PROCESSOR)


def test_data_to_evaluate_on_have_the_order_of_those_to_train_on_where_rows_have_no_names(tmp_path):
    """The head has no names, but the trainer was told which class each of its rows is."""
    t = trainer(tmp_path, model(UNNAMED).export("own"))
    other = table([0, 1, 2], datasets.ClassLabel(names=[*NAMES[::-1]]))
    for look in (t.evaluate, t.predict):
        for data in (other, Subset(other, [0, 1])):
            with pytest.raises(DataError, match="'fox' has the number 2 in the forget data set, 0 in the (eval|test)"):
                look(data)
    assert t.evaluate(table([0, 1, 2]))["eval_loss"] > 0


def trainer(tmp_path, given=None, processor=PROCESSOR, **arguments):
    args = hf_dtl.FineTuneConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True)
    data = {"forget_dataset": table([0, 1]), "retain_dataset": table([1, 2])}
    given = given or model().export("own")
    return hf_dtl.FineTuneTrainer(given, args, **data, processing_class=processor, **arguments)


def test_a_frozen_backbone_is_refused_and_a_frozen_part_is_told(tmp_path, caplog):
    """As PEFT leaves a model: the head alone would be trained."""
    frozen = model().export("own")
    for name, parameter in frozen.named_parameters():
        parameter.requires_grad_("classifier" in name)
    with pytest.raises(ConfigError, match=r"weights of the backbone are frozen .*merge_and_unload.*requires_grad_"):
        trainer(tmp_path, frozen)
    with pytest.raises(ModelError, match="a trainer or a MultiHeadClassifier has it: .* load the model anew"):
        trainer(tmp_path, trainer(tmp_path).model.backbone)
    next(p for n, p in frozen.named_parameters() if "layers" in n).requires_grad_(True)
    trainer(tmp_path, frozen)
    assert "were given frozen, and stay as they are" in caplog.text


def test_copies_are_told_inside_torchs_wrappers_and_of_one_object_too(tmp_path, caplog):
    images = load_images(table([0, 1, 2]), PROCESSOR, num_channels=3)
    for forget, retain in (
        (Subset(images, [1]), images),
        (images.subset([1]), ConcatDataset([Subset(images, [0]), images])),
        (data := table([0, 1]), data),
    ):
        caplog.clear()
        labelled_items({"forget": (forget, "own"), "retain": (retain, "own")}, model(), PROCESSOR)
        assert "images are also to be forgotten, and training gives them back" in caplog.text
    caplog.clear()
    labelled_items({"forget": (data, "own"), "retain": (data, "own")}, model(), PROCESSOR, trained=False)
    assert not caplog.text


@pytest.mark.parametrize("name", ["data_collator", "compute_loss_func", "train_dataset", "model_init"])
def test_arguments_that_would_not_be_used_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"{name}: the trainer has its own"):
        trainer(tmp_path, **{name: default_collate})


def test_a_checkpoint_of_another_request_is_refused(tmp_path):
    """It would end what the other one began, or train nothing at all."""

    def after(forget, resume, method="RandomLabel"):
        config, made = getattr(hf_dtl, f"{method}Config"), getattr(hf_dtl, f"{method}Trainer")
        own = {"max_steps": 2, "save_steps": 2, "per_device_train_batch_size": 2}
        args = config(output_dir=str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, **own)
        torch.manual_seed(0)
        found = made(model().export("own"), args, forget, table([2, 1]), processing_class=PROCESSOR)
        found.train(resume_from_checkpoint=resume)

    after(table([0, 0]), None)
    after(table([0, 0]), True)
    with pytest.raises(ConfigError, match=r"checkpoint-2 is of another request \(forget differs\)"):
        after(table([1, 1]), True)
    with pytest.raises(ConfigError, match=r"another request \(method differs\)"):
        after(table([0, 0]), True, "NegGradPlus")


def test_classes_of_several_tasks_go_by_name_whoever_takes_them():
    heads = {"kind": ("fox", "cat", "dog"), "size": ("small", "large")}
    both = with_task_heads(model().export("own"), heads)
    data = table([0, 1, 2, 0]).rename_column("label", "kind")
    data = data.add_column("size", [1, 0, 0, 1], feature=datasets.ClassLabel(names=["large", "small"]))
    images = load_multitask_images(data, PROCESSOR, num_channels=3)
    rows = {"kind": [1, 2, 0, 1], "size": [0, 1, 1, 0]}
    assert {task: labels.tolist() for task, labels in task_rows(images, both, "").labels.items()} == rows
    part = task_rows(ConcatDataset([Subset(images, [2, 0]), images]), both, "")
    assert [int(part[i]["labels"]["kind"]) for i in range(6)] == [0, 1, *rows["kind"]]
    outputs = predict_tasks(both, images)
    right = {t: float((o.argmax(-1) == torch.tensor(rows[t])).double().mean()) for t, o in outputs.items()}
    assert measure_tasks(both, images) == measure_tasks(both, images.subset(range(4))) == right
    with pytest.raises(DataError, match="'file' holds .*remove_columns"):
        load_multitask_images(data.add_column("file", list("abcd")), PROCESSOR, num_channels=3)


def test_a_fitted_head_has_its_rows_by_name():
    fitted = model(("fox", "cat", "dog"))
    images = load_images(table([0, 1, 2] * 4), PROCESSOR, num_channels=3)
    fit_head(fitted, "own", images, device=torch.device("cpu"))
    assert fitted(images.pixel_values, task="own").argmax(-1).tolist() == [1, 2, 0] * 4
    with pytest.raises(DataError, match="no image of the classes dog"):
        fit_head(fitted, "own", images.subset([0, 2]), device=torch.device("cpu"))


def test_what_load_images_cannot_use_is_told():
    for data, message in (
        (table([0, 1]).with_transform(lambda batch: batch), "transform .* would not be used"),
        (table(["cat", "dog"], datasets.Value("string")), "must be 'image' and 'label'.*class_encode_column"),
        (table([0, None]), "1 of 2 images have no label"),
        (table([0, 1], image="img"), "rename_column"),
    ):
        with pytest.raises(DataError, match=message):
            load_images(data, PROCESSOR, num_channels=3)
    with pytest.raises(DataError, match="as text, got Dataset"):
        load_task(table([0, 1]))


def test_other_faults_are_told_before_training(tmp_path):
    for name, value in {"label_smoothing_factor": 0.1, "data_seed": 3, "neftune_noise_alpha": 1.0}.items():
        with pytest.raises(ConfigError, match=f"{name} is not supported"):
            hf_dtl.FineTuneConfig(output_dir=str(tmp_path), use_cpu=True, **{name: value})
    with pytest.raises(ConfigError, match="does not take the images, 3x24x24: Input image size"):
        trainer(tmp_path, processor=embedded_processor(24))
    for labels in ("cat", ["a", "a"]):
        with pytest.raises(ModelError, match="give a list of names, each once"):
            model().add_head("new", labels)
