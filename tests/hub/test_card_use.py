"""What a card says on licence, data and use, and that the use runs."""

import re

import pytest
from audit_toys import report
from huggingface_hub import ModelCard
from PIL import Image
from publish_toys import NUMBER, OTHER, TASK, finished_run, finished_tasks

from hf_dtl.audit import LeakageReport
from hf_dtl.hub import leakage_card
from hf_dtl.hub.metadata import license_of
from hf_dtl.hub.staging import add_evidence, stage


def card(found=None, **options):
    return leakage_card(found or report(), model_labels=["6", "7"], **options)


def test_the_licence_is_the_publishers_else_the_base_models_else_said_to_be_missing(tmp_path):
    assert "license" not in card().data.to_dict() and "- Licence: none was given." in str(card())
    named = card(license="mit")
    assert named.data.license == "mit" and "- Licence: mit\n" in str(named) and "none was given" not in str(named)
    base, output = tmp_path / "base", tmp_path / "run"
    finished_run(output)
    base.mkdir()
    assert license_of(str(base)) is None and license_of("ann/never-there") is None
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Base\n")
    written = LeakageReport.load(output / "leakage_report.json")
    add_evidence(output / "scrubbed", written, base_model=str(base))
    read = ModelCard.load(output / "scrubbed" / "README.md")
    assert read.data.license == "apache-2.0" and "- Licence: apache-2.0\n" in read.text
    assert "base_model" not in read.data.to_dict(), "a folder is no Hub id"
    stage(output, tmp_path / "new", "mit")
    read = ModelCard.load(tmp_path / "new" / "README.md")
    assert read.data.license == "mit" and "- Licence: mit\n" in read.text and "apache" not in read.text


def test_data_of_the_hub_are_named_and_others_are_not(tmp_path, monkeypatch):
    def named(source, target="mnist[6-9]"):
        return card(report(settings={"source_dataset": source, "target_dataset": target})).data.to_dict()["datasets"]

    assert named("mnist[0-5]") == ["ylecun/mnist"]
    assert named("ann/photos@v2:train[:50%][cat]") == ["ann/photos", "ylecun/mnist"]
    assert named("fashion_mnist", "photos[car]") == ["zalando-datasets/fashion_mnist"]
    for folder in ("/home/ann/photos[cat]", "photos[cat]", "~/a/b", "glyphs, case", "<b>/<i>", "a/b/c[d]"):
        assert named(folder) == ["ylecun/mnist"], folder
    (tmp_path / "ann" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert named("ann/photos[cat]") == ["ylecun/mnist"], "it is a folder here"
    assert "datasets" not in card(report(settings={})).data.to_dict()


def snippet(folder, task=""):
    """What the card of a published folder says on its use, with names of this test's own."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]
    assert len(code.splitlines()) <= 6
    Image.new("RGB", (40, 30), "red").save(folder.parent / "image.png")
    return (
        code.replace("FOLDER_OR_HUB_ID", str(folder))
        .replace("IMAGE_FILE", str(folder.parent / "image.png"))
        .replace("TASK", task)
    )


def test_the_use_that_the_card_shows_runs_on_a_published_folder(tmp_path, capsys):
    stage(finished_run(tmp_path / "run"), tmp_path / "new")
    exec(compile(snippet(tmp_path / "new"), "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["6", "7", "8"]
    assert sum(float(line.split()[1]) for line in lines) == pytest.approx(1, abs=1e-4)


def test_the_use_of_several_tasks_runs_for_each(tmp_path, capsys):
    stage(finished_tasks(tmp_path / "run"), tmp_path / "new")
    for task in (TASK, OTHER, NUMBER):
        exec(compile(snippet(tmp_path / "new", task), "README.md", "exec"), {})
        assert capsys.readouterr().out.count(",") >= (0 if task == NUMBER else 2)
