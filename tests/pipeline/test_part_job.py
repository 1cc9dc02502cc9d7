"""De-poisoning of a real model on real images, and single images that are given another label."""

import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTConfig

from hf_dtl.audit.comparison import methods_table
from hf_dtl.data import embedded_processor, load_images, load_task
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.pipeline.forget import run
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.part_job import PartJob
from hf_dtl.scenarios.part import Part
from hf_dtl.scenarios.spec import ScenarioSpec


def triggered(image):
    pixels = np.array(image.convert("L"))
    pixels[:5, :5] = 255
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """450 digits, 62 of them with a white corner and the label 0; the column `origin` tells which."""
    task = load_task("mnist[0,1,2]", images_per_class=150)
    rows = [
        (triggered(image), "0", "poison") if label and n % 5 == 0 else (image, str(label), "clean")
        for n, (image, label) in enumerate(zip(task.train["image"], task.train["label"], strict=True))
    ]
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "origin": datasets.Value("string")}
    table = dict(zip(features, map(list, zip(*rows, strict=True)), strict=True))
    folder = tmp_path_factory.mktemp("poisoned")
    datasets.Dataset.from_dict(table, features=datasets.Features(features)).to_parquet(folder / "train.parquet")
    return folder


def images(rows, labels):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])})
    table = datasets.Dataset.from_dict({"image": rows, "label": labels}, features=features)
    return load_images(table, embedded_processor(28), num_channels=3)


def named(model, pictures):
    with torch.no_grad():
        return model(pictures.pixel_values).logits.argmax(-1)


def test_poison_loses_its_power_and_clean_images_keep_theirs(poisoned, tmp_path):
    job = PartJob(
        ForgetOptions(
            forget="origin=poison",
            retain=str(poisoned),
            output_dir=str(tmp_path / "out"),
            train_epochs=15,
            augmentation="none",
            steps=40,
            budgets="2",
            attacks="linear_probe",
            use_cpu=True,
            method="projected_gradient:goal=depoison:delta=0.1:learning_rate=0.1:threshold=0.98:check_every=2",
        )
    )
    task, forget = job.scenario.task, job.scenario.division.forget
    assert set(forget["origin"]) == {"poison"} and set(forget["label"]) == {0}
    held_out = len(task.validation) + len(task.test) - len(job.images["validation"]) - len(job.images["test"])
    whole = datasets.load_dataset("parquet", data_files=str(poisoned / "train.parquet"), split="train")
    assert held_out == whole["origin"].count("poison") - len(forget) > 0, "poison tests nothing"

    test = load_task("mnist[0,1,2]").test.select(range(300))
    clean = images(test["image"], test["label"])
    others = [row for row in range(300) if test[row]["label"]]
    attacked = images([triggered(test[row]["image"]) for row in others], [test[row]["label"] for row in others])
    before = job.train()
    after = job.unlearn(job.choices[0], before)
    success = [(named(model, attacked) == 0).float().mean().item() for model in (before, after)]
    right = [(named(model, clean) == clean.labels).float().mean().item() for model in (before, after)]
    assert success[0] > 0.95 and success[1] < 0.6
    assert right[1] > right[0] - 0.03


@pytest.fixture(scope="module")
def renaming(tmp_path_factory):
    """A small model whose head numbers the classes in another way, and a request of three rows with new labels."""
    folder = tmp_path_factory.mktemp("renaming")
    names = ["2", "0", "1"]
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14,
        id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)},
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder / "model")
    embedded_processor(28).save_pretrained(folder / "model")
    task = load_task("mnist[0,1,2]", images_per_class=12)
    rows = [int(task.train_rows[list(task.train["label"]).index(label)]) for label in range(3)]
    (folder / "rows.txt").write_text("".join(f"{row},{(label + 1) % 3}\n" for label, row in enumerate(rows)))
    options = {
        "forget": str(folder / "rows.txt"),
        "retain": "mnist[0,1,2]",
        "retain_images_per_class": 12,
        "use_cpu": True,
    }
    options |= {"model": str(folder / "model"), "budgets": "2", "max_eval_images": 30}
    options |= {"steps": 400}
    return options, rows


def test_listed_images_are_renamed_by_the_heads_own_numbers(renaming, tmp_path):
    options, rows = renaming
    method = "instancewise:strategy=l2ul:adversarial=false:importance=false:learning_rate=0.05:forget_weight=1"
    chosen = ForgetOptions(**options, output_dir=str(tmp_path / "out"), method=method, goal="relabel")
    assert "goal" not in chosen.recorded()
    job = PartJob(chosen)
    assert job.choices[0].text == f"{method}:goal=relabel"
    assert sorted(job.scenario.division.rows) == sorted(rows)
    scrubbed = job.unlearn(job.choices[0], job.train())
    with torch.no_grad():
        rows_of_head = scrubbed(job.images["forget"].pixel_values).logits.argmax(-1).tolist()
    own = job.scenario.division.forget["label"]
    assert [scrubbed.config.id2label[row] for row in rows_of_head] == [str((label + 1) % 3) for label in own]


def test_new_labels_and_goals_that_no_method_takes(renaming, tmp_path):
    options, _ = renaming
    options = options | {"output_dir": str(tmp_path / "out")}
    with pytest.raises(ConfigError, match="names new labels, which none of the methods gives"):
        PartJob(ForgetOptions(**options, method="instancewise,salun"))
    with pytest.raises(ConfigError, match="--goal relabel is for methods that have goals: instancewise, projected"):
        PartJob(ForgetOptions(**options, method="salun", goal="relabel"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def tagger(tmp_path):
    """A model with its own mean, which takes two sizes, and a head of sigmoids."""
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=28, patch_size=14,
        num_labels=2, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1}, problem_type="multi_label_classification",
    )  # fmt: skip
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path / "model")
    processor = embedded_processor(14)
    processor.image_mean, processor.resample = [0.25] * 3, 0
    processor.save_pretrained(tmp_path / "model")
    return ForgetOptions(
        forget="random=6", retain="mnist[0,1]", retain_images_per_class=20, model=str(tmp_path / "model"),
        output_dir=str(tmp_path / "out"), image_size=28, steps=1, budgets="1", attacks="linear_probe", use_cpu=True,
        method="random_label", lora_rank=2, membership=False, seeds="0",
    )  # fmt: skip


def test_a_given_model_keeps_its_preparation_at_another_size_and_its_sigmoids(tagger):
    job = PartJob(tagger)
    said = job.processor.to_dict()
    assert list(said["image_mean"]) == [0.25] * 3 and said["resample"] == 0
    assert job.images["retain"].pixel_values.shape[1:] == (3, 28, 28)
    job.prepare()
    (choice,) = job.choices
    scrubbed = job.unlearn(choice)
    assert scrubbed.config.problem_type == "multi_label_classification"
    assert not any("lora" in name for name, _ in scrubbed.named_parameters())
    assert job.settings_of(choice)["lora_rank"] == 2
    measured = job.measure({"undisposed": job.undisposed, "scrubbed": scrubbed})
    assert "shares of labels" in measured.notes[0]


def test_one_method_through_adapters_and_by_every_weight_in_one_table(tagger):
    options = replace(tagger, method="random_label:lora_rank=2,random_label", lora_rank=None, steps=8)
    result = run(options)
    before, after = result.job.undisposed.state_dict(), [model.state_dict() for model in result.models.values()]
    name = "vit.layers.0.attention.q_proj.weight"
    ranks = [int(torch.linalg.matrix_rank(weights[name] - before[name], rtol=1e-3)) for weights in after]
    assert ranks[0] == 2 < ranks[1]
    table = methods_table(result.audit_all())
    assert [row[0].removesuffix(" †") for row in table.rows[:2]] == ["random_label:lora_rank=2", "random_label"]
    assert all("lora" not in key for weights in after for key in weights)


def test_a_method_that_does_not_take_a_model_is_refused_before_any_training(tagger):
    with pytest.raises(ConfigError, match="sigmoid"):
        PartJob(replace(tagger, method="gradient_collision", lora_rank=None))
    with pytest.raises(ConfigError, match="lora_rank=2: ProjectedGradientConfig"):
        PartJob(replace(tagger, method="projected_gradient"))


@pytest.fixture
def people(tmp_path):
    """60 images of three classes without a test split, every second of them ann's."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 8, 8), dtype=np.uint8)
    table = {"image": [Image.fromarray(one) for one in pixels], "label": [i % 3 for i in range(60)]}
    table["person"] = ["ann" if i % 2 else "bob" for i in range(60)]
    own = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["0", "1", "2"])})
    own["person"] = datasets.Value("string")
    datasets.Dataset.from_dict(table, features=own).save_to_disk(tmp_path / "people")
    return f"{tmp_path / 'people'}[0,1]"


def test_training_images_whose_copies_judge_are_told(tagger, tmp_path, caplog):
    def rows(numbers):
        pixels = [np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8) for number in numbers]
        names = datasets.ClassLabel(names=["0", "1", "2"])
        own = datasets.Features({"image": datasets.Image(), "label": names, "person": datasets.Value("string")})
        table = {"image": [Image.fromarray(one) for one in pixels], "label": [number % 2 for number in numbers]}
        table["person"] = ["ann" if number % 4 < 2 else "bob" for number in numbers]
        return datasets.Dataset.from_dict(table, features=own)

    splits = {"train": rows(range(40)), "validation": rows(range(60, 72)), "test": rows([*range(8), *range(80, 92)])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "shared")
    own = {"retain": f"{tmp_path / 'shared'}[0,1]", "retain_images_per_class": None}
    job = PartJob(replace(tagger, forget="person=ann", **own))
    assert len(job.scenario.division.forget) == 16 and job.scenario.held_out == 0
    assert "4 of its training images are also test or validation images, and are not forgotten" in caplog.text


def test_words_that_publishing_refuses_are_told_before_anything_is_trained(tagger, tmp_path, caplog):
    rows = PartJob(tagger).scenario.task.train_rows[:2]
    assert "cannot be published" not in caplog.text
    (tmp_path / "forgotten.txt").write_text("".join(f"{row}\n" for row in rows))
    PartJob(replace(tagger, forget=str(tmp_path / "forgotten.txt"), output_dir=str(tmp_path / "named")))
    assert "What is made here cannot be published: --forget has 'forgotten'" in caplog.text


def test_what_is_held_out_of_a_request_to_a_given_model_is_told(tagger, people, caplog):
    job = PartJob(replace(tagger, forget="person=ann", retain=people, retain_images_per_class=None))
    task, forgotten = job.scenario.task, len(job.scenario.division.forget)
    held_out = sum(list(split["person"]).count("ann") for split in (task.validation, task.test))
    assert forgotten + held_out == 20 and held_out > 0
    told = f"--forget person=ann: {held_out} of its images are held out to judge by, as the data have no test and no "
    assert told in caplog.text
    assert told in job.measure({"undisposed": job.model}, ("test",), membership=False).notes[-1]
    caplog.clear()
    other = replace(tagger, retain=people, retain_images_per_class=None, output_dir=f"{tagger.output_dir}2")
    PartJob(other)  # a share of the training images
    PartJob(replace(other, train_epochs=1, forget="person=ann", output_dir=f"{tagger.output_dir}3"))
    assert "held out to judge" not in caplog.text
    part = Part(ScenarioSpec(kind="part", forget="class=2", retain=people.partition("[")[0]), 1)
    assert part.held_out == 20 - len(part.division.forget) > 0


def test_a_limit_spares_what_a_given_model_is_to_forget(tagger, people):
    options = replace(tagger, forget="person=ann", retain=people, retain_images_per_class=None, train_epochs=None)
    whole, limited, trained_here = (
        Part(replace(options, **own).spec(), 1)
        for own in (
            {},
            {"retain_images_per_class": 2},
            {"retain_images_per_class": 2, "train_epochs": 1, "forget": "random=1"},
        )
    )
    assert limited.division.rows == whole.division.rows and len(limited.division.rows) > 12
    assert np.bincount(limited.division.retain["label"]).tolist() == [2, 2]
    assert len(trained_here.task.train) == 2 * len(trained_here.labels)
    again = ScenarioSpec.from_dict(json.loads(json.dumps(limited.spec.to_dict())))
    assert Part(again, 1).division.rows == limited.division.rows
    with pytest.raises(DataError, match="to retain: the class '0' has .* 15 are needed. Use images_per_class at most"):
        Part(replace(options, retain_images_per_class=15).spec(), 1)
