"""The floor of who never saw the source and is as good at the target: how many labels, which images, what is said."""

import json
from dataclasses import replace

import numpy as np
import pytest

import hf_dtl
from hf_dtl.audit import leakage
from hf_dtl.data import load_task
from hf_dtl.errors import ConfigError, DataError
from hf_dtl.pipeline.forget_options import ForgetOptions
from hf_dtl.pipeline.twin import as_good
from hf_dtl.pipeline.whole_task_job import WholeTaskJob

pytestmark = pytest.mark.usefixtures("short_attacks")

TINY = {
    "forget": "mnist[0-2]", "retain": "mnist[6-8]", "novel": "none", "method": "representation_erasure", "steps": 2,
    "forget_images_per_class": 20, "retain_images_per_class": 4, "train_epochs": 1, "adapt_epochs": 1,
    "retrain_epochs": 2, "image_size": 14, "attacks": "linear_probe", "budgets": "2", "seeds": "0,1",
    "max_eval_images": 60, "use_cpu": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("wanted", "found", "asked"),
    [(0.05, 10, 1), (0.1, 10, 1), (0.4, 39, 5), (0.9, 90, 2), (0.99, 90, 2)],
)
def test_the_number_of_labels_is_found_by_bisection(wanted, found, asked):
    tried = []

    def accuracy(labels):
        tried.append(labels)
        return labels / 100

    assert as_good(accuracy, wanted, 10, 90) == found
    assert len(tried) == len(set(tried)) == asked


def test_of_a_jump_the_nearer_side_is_taken_and_numbers_that_tell_nothing_are_not_tried():
    tried = []

    def accuracy(labels):
        tried.append(labels)
        return 0.3 if labels < 50 else 0.8

    assert as_good(accuracy, 0.7, 10, 1000) >= 50
    assert as_good(accuracy, 0.4, 10, 1000) < 50
    assert len(set(tried)) < 12


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("twin") / "out")
    result = hf_dtl.forget(**TINY, twin="all", output_dir=folder)
    return result, result.audit()


def test_the_twin_is_a_floor_of_the_report_and_is_not_trained_again(audited):
    result, report = audited
    assert {record.model for record in report.piggyback} >= {"twin", "retrained", "scratch", "no_model"}
    assert leakage(report.piggyback).over("twin").undefined != "the twin model was not attacked"
    assert any("true labels a class" in note for note in report.settings["notes"])
    assert "compared with a twin" not in report.verdict
    stages = result.folder / "stages" / "twin"
    before = {path: path.stat().st_mtime_ns for path in stages.iterdir()}
    hf_dtl.forget(**TINY, twin="all", output_dir=str(result.folder)).audit()
    assert before and {path: path.stat().st_mtime_ns for path in stages.iterdir()} == before


def test_more_labels_hold_the_retained_ones_and_the_accuracy_is_the_scrubbed_models(audited):
    job = audited[0].job
    task, images = job.further
    assert len(task.labels) == 3 and len(images) > 300
    kept = {image.numpy().tobytes() for image in job.images["target"]["train"].pixel_values}
    drawn = []
    job.target_alone = lambda stage, scratch, images: drawn.append(images)
    for count in (4, 9):
        job.with_labels(count)
    del job.target_alone
    own = [{image.numpy().tobytes() for image in images.pixel_values} for images in drawn]
    assert kept == own[0] < own[1] and np.bincount(drawn[1].labels).tolist() == [9, 9, 9]


def test_given_models_have_a_twin_too(audited, tmp_path):
    folder = audited[0].folder
    (twin,) = list((folder / "stages" / "twin").iterdir())[:1]
    report = hf_dtl.audit(
        str(folder / "scrubbed"), undisposed=str(folder / "undisposed"), retrained=str(folder / "retrained"),
        twin=str(twin), forget=TINY["forget"], retain=TINY["retain"], attacks="linear_probe", budgets="2",
        seeds="0,1", max_eval_images=60, use_cpu=True, output_dir=str(tmp_path),
    )  # fmt: skip
    assert {record.model for record in report.piggyback} >= {"twin"}
    assert "twin" in json.loads((tmp_path / "leakage_report.json").read_text())["settings"]


def test_without_a_twin_the_report_says_so(audited):
    report, levels = audited[1], {"undisposed": 0.9, "scrubbed": 0.6}
    rest = tuple(replace(r, accuracy=levels.get(r.model, 0.3) + 0.01 * r.seed) for r in report.piggyback)
    with_twin, without = (
        replace(report, piggyback=own) for own in (rest, tuple(r for r in rest if r.model != "twin"))
    )
    assert "part of the leakage may be the target's own" in without.verdict
    assert "the target's own" not in with_twin.verdict


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"twin": "all", "retain_images_per_class": None, "model": "x"}, ConfigError, "no label is left"),
        ({"twin": "mnist[6,7,9]"}, DataError, "its classes are 6, 7, 9, those of --retain 6, 7, 8"),
    ],
)
def test_labels_that_are_not_there_are_told_before_any_work(options, error, message, tmp_path):
    job = object.__new__(WholeTaskJob)
    job.options = ForgetOptions(**TINY | options, output_dir=str(tmp_path))
    job.scenario = job._open()
    with pytest.raises(error, match=message):
        _ = job.further
    assert load_task("mnist[6-8]").labels == ("6", "7", "8")
