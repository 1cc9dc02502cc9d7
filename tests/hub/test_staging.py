"""What is staged to be published, and that every leak is refused with a message that names it."""

import copy
import hashlib
import json
import re
import shutil

import pytest
import torch
from architectures import CONFIGS
from audit_toys import report, resnet, tasks_report, vit
from huggingface_hub import ModelCard
from publish_pictures import PICTURES
from publish_plants import INNOCENT, PLANTS
from publish_toys import (
    LABELS,
    LEAKS,
    LEAKS_OF_TASKS,
    NUMBER,
    OTHER,
    TASK,
    TOKEN,
    finished_run,
    finished_tasks,
    planted,
    save,
    save_model,
    sign,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from hf_dtl.errors import OutputError, PublishError
from hf_dtl.hub.leaks import PATHS, check_picture, check_text
from hf_dtl.hub.model_files import check_weights
from hf_dtl.hub.model_settings import check_settings, drop_unknown_settings
from hf_dtl.hub.staging import stage

STAGED = [
    "README.md", "config.json", "leakage_report.json", "model.safetensors", "plots/attacks.png", "plots/piggyback.png",
    "preprocessor_config.json",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finished_run(tmp_path_factory.mktemp("publish") / "run")


def test_only_what_is_meant_to_be_public_is_staged_and_it_is_the_same(run, tmp_path):
    files = stage(run, tmp_path / "new")
    assert [file.name for file in files] == STAGED
    assert sorted(p.relative_to(tmp_path / "new").as_posix() for p in (tmp_path / "new").rglob("*.*")) == STAGED
    for file in files:
        content = (run / "scrubbed" / file.name).read_bytes()
        assert (tmp_path / "new" / file.name).read_bytes() == content
        assert (file.size, file.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    with pytest.raises(OutputError, match="not empty"):
        stage(run, tmp_path / "new")


def test_a_models_own_folder_can_be_given_and_report_and_plots_may_stand_beside_it(run, tmp_path):
    assert [file.name for file in stage(run / "scrubbed", tmp_path / "one")] == STAGED
    moved = tmp_path / "run"
    shutil.copytree(run, moved)
    shutil.rmtree(moved / "scrubbed" / "plots")
    (moved / "scrubbed" / "leakage_report.json").unlink()
    assert [file.name for file in stage(moved, tmp_path / "two")] == STAGED
    shutil.move(moved / "scrubbed", tmp_path / "elsewhere")
    (moved / "scrubbed").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublishError, match="is a link out of the folder"):
        stage(moved, tmp_path / "linked")
    (moved / "scrubbed").unlink()
    shutil.move(tmp_path / "elsewhere", moved / "scrubbed")
    (moved / "leakage_report.json").unlink()
    with pytest.raises(PublishError, match="leakage_report.json is missing.*audit"):
        stage(moved, tmp_path / "three")
    with pytest.raises(PublishError, match="There is no folder"):
        stage(tmp_path / "nowhere", tmp_path / "four")


@pytest.mark.parametrize("name", LEAKS)
def test_a_leak_is_refused_and_named(run, tmp_path, name):
    with pytest.raises(PublishError, match=re.compile(LEAKS[name][1], re.DOTALL)) as refused:
        stage(planted(run, name, tmp_path), tmp_path / "new")
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize("name", PLANTS)
def test_what_a_dishonest_publisher_plants_is_refused_and_named(run, tmp_path, name):
    output = shutil.copytree(run, tmp_path / "run")
    PLANTS[name][0](output / "scrubbed")
    with pytest.raises(PublishError, match=re.compile(PLANTS[name][1], re.DOTALL)):
        stage(output, tmp_path / "new")


@pytest.mark.parametrize("name", INNOCENT)
def test_what_only_looks_like_a_leak_is_published(run, tmp_path, name):
    output = shutil.copytree(run, tmp_path / "run")
    INNOCENT[name](output / "scrubbed")
    assert {file.name for file in stage(output, tmp_path / "new")} >= {name for name in STAGED if "plots" not in name}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_drawn_anew_and_what_hides_in_those_of_others_is_named(run, tmp_path, name):
    output = shutil.copytree(run, tmp_path / "run")
    picture = output / "scrubbed" / "plots" / "attacks.png"
    drawn = picture.read_bytes()
    check_picture(picture)
    PICTURES[name](picture)
    assert picture.read_bytes() != drawn
    with pytest.raises(PublishError, match="attacks.png (carries|cannot be read)"):
        check_picture(picture)
    stage(output, tmp_path / "new")
    assert (tmp_path / "new" / "plots" / "attacks.png").read_bytes() == drawn


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return finished_tasks(tmp_path_factory.mktemp("tasks") / "run")


def test_a_model_of_several_tasks_is_staged_as_one_plain_model_a_task(tasks, tmp_path):
    files = [file.name for file in stage(tasks, tmp_path / "new")]
    own = [
        f"{task}/{name}"
        for task in (TASK, OTHER, NUMBER)
        for name in STAGED
        if name.endswith(("config.json", "tensors"))
    ]
    assert files == sorted(
        [
            *own,
            "README.md",
            "leakage_report.json",
            *(f"plots/{name}.png" for name in ("attacks", "piggyback", "tasks")),
        ]
    )
    for task, labels in ((TASK, list(LABELS)), (OTHER, list(LABELS)), (NUMBER, [NUMBER])):
        model = AutoModelForImageClassification.from_pretrained(tmp_path / "new", subfolder=task)
        assert list(model.config.id2label.values()) == labels
    assert ModelCard.load(tmp_path / "new" / "README.md").data["unlearning"]["weights_sha256"].keys() == {
        f"{task}/{name}"
        for task in (TASK, OTHER, NUMBER)
        for name in ("config.json", "model.safetensors", "preprocessor_config.json")
    }


@pytest.mark.parametrize("name", LEAKS_OF_TASKS)
def test_every_leak_is_refused_in_a_folder_of_several_tasks_too(tasks, tmp_path, name):
    with pytest.raises(PublishError, match=re.compile(LEAKS_OF_TASKS[name][1], re.DOTALL)) as refused:
        stage(planted(tasks, name, tmp_path), tmp_path / "new")
    assert TOKEN not in str(refused.value)


def test_a_report_of_several_tasks_needs_their_folders(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    sign(tmp_path / "run" / "scrubbed", tasks_report())
    with pytest.raises(PublishError, match="speaks of the tasks case, rotation, weight, not of one model"):
        stage(tmp_path / "run", tmp_path / "new")


def test_the_report_of_another_model_that_leaked_less_is_refused(run, tmp_path):
    """Evidence that was made for one model is not shown for another."""
    save(resnet(), tmp_path / "other", report(scrubbed=(0.40, 0.50)))
    output = tmp_path / "run"
    shutil.copytree(run, output)
    for name in ("leakage_report.json", "README.md"):
        shutil.copy(tmp_path / "other" / name, output / "scrubbed")
    with pytest.raises(PublishError, match="does not belong to these weights"):
        stage(output, tmp_path / "new")


def test_what_the_loader_skips_by_name_is_refused(tmp_path):
    """A BEiT checkpoint may hold index tables under names that are dropped in silence: a head can hide there."""
    config = copy.deepcopy(CONFIGS["beit"]())
    config.num_labels = len(LABELS)
    save(AutoModelForImageClassification.from_config(config), tmp_path / "beit")
    stage(tmp_path / "beit", tmp_path / "one")
    weights = load_file(tmp_path / "beit" / "model.safetensors")
    weights["source.relative_position_index"] = torch.zeros(6, 16)
    save_file(weights, tmp_path / "beit" / "model.safetensors", metadata={"format": "pt"})
    sign(tmp_path / "beit")
    AutoModelForImageClassification.from_pretrained(tmp_path / "beit")
    with pytest.raises(PublishError, match="stands under one of the names that are skipped"):
        stage(tmp_path / "beit", tmp_path / "two")


@pytest.mark.parametrize("name", CONFIGS)
def test_what_save_pretrained_writes_of_any_architecture_is_no_leak(tmp_path, name):
    config = copy.deepcopy(CONFIGS[name]())
    config.num_labels = len(LABELS)
    save_model(AutoModelForImageClassification.from_config(config), tmp_path)
    check_weights(tmp_path)
    # The toys give all transformers the same options, and DINOv2 has another name for one of them.
    assert drop_unknown_settings(tmp_path) == ["config.json: intermediate_size"] * (name == "dinov2")
    check_settings(tmp_path)


def test_settings_that_nothing_reads_are_dropped_on_writing_and_listed(tmp_path, caplog):
    save_model(vit(), tmp_path)
    for name, changes in (("config.json", {"source": ["cat"]}), ("preprocessor_config.json", {"labels": ["cat"]})):
        content = json.loads((tmp_path / name).read_text())
        (tmp_path / name).write_text(json.dumps(content | changes))
    assert drop_unknown_settings(tmp_path) == ["config.json: source", "preprocessor_config.json: labels"]
    assert "config.json: source" in caplog.text
    check_settings(tmp_path)


def test_shards_are_staged_if_the_index_names_each_of_them(run, tmp_path):
    model = AutoModelForImageClassification.from_pretrained(run / "scrubbed")
    folder = tmp_path / "sharded"
    save(model, folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    sign(folder)
    shards = sorted(p.name for p in folder.glob("*.safetensors"))
    assert len(shards) > 1
    staged = [file.name for file in stage(folder, tmp_path / "one") if "model" in file.name]
    assert staged == [*shards, "model.safetensors.index.json"]
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    first = {name: file for name, file in index["weight_map"].items() if file == shards[0]}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": first}))
    with pytest.raises(PublishError, match=f"not one model's: {shards[1]}.* besides {shards[0]}"):
        stage(folder, tmp_path / "two")


def test_words_and_metadata_may_be_added_to_the_card(run, tmp_path):
    output = tmp_path / "run"
    shutil.copytree(run, output)
    card = ModelCard.load(output / "scrubbed" / "README.md")
    card.data["license"] = "mit"
    card.text += (
        "\n## Thanks\n\nTo [the Hub](https://huggingface.co/docs/hub), and/or 5 / 20 others; see ../x, a/b/c.\n"
    )
    card.save(output / "scrubbed" / "README.md")
    assert [file.name for file in stage(output, tmp_path / "new")] == STAGED


@pytest.mark.parametrize(
    "text",
    [
        "https://huggingface.co/org/name/tree/main", "images/class", "(PL − PL of scratch) / (PL)", "</td></tr>",
        "fashion_mnist[T-shirt/top,Trouser]", "../photos", "plots/attacks.png", "hf_dtl 0.1.0",
        "the bearer of 5/6/2026", "PL / budget", "sha256 " + 64 * "a", "hf://datasets/org/name", "1:1 at 10:30",
    ],
)  # fmt: skip
def test_ordinary_text_is_no_leak(text):
    check_text("README.md", iter([text]))


@pytest.mark.parametrize(
    "text",
    [
        "/home/ann", "see /data", "'/mnt/x'", "(/opt/lab/run)", "~/run", "~ann/run", "file:///x", r"D:\data",
        "d:/data", r"\\lab\share", "--data=/a/b", "path:/a/b", "|/a/b|", "`/a/b`", "/workspace",
    ],
)  # fmt: skip
def test_local_folders_are_found_however_they_are_written(text):
    assert PATHS.search(text)
