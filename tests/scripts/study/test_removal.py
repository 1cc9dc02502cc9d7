"""The study of removal: results written by hand, so that every number is known, and one so small that it trains."""

import json
from dataclasses import replace

import pytest
import torch
from study_toys import learned, write

from hf_dtl.audit.suites import SUITES
from hf_dtl.errors import ConfigError
from hf_dtl.pipeline.whole_task_job import WholeTaskJob
from study.removal import Contender, RemovalOptions, removal_study, study_removal
from study.tables.removal import main_table, order, removal_rows

MACHINE = {"device": "x86_64", "threads": 1, "python": "3", "torch": "2", "transformers": "5"}
LEVELS = {"undisposed": (0.8, 0.9), "retrained": (0.4, 0.5), "scratch": (0.3, 0.4)}
TARGET = {"undisposed": 0.7, "retrained": 0.5}
GC = "gradient_collision:max_steps=100"
TRAINED = {"cost": None, "parameters": 1, "machine": MACHINE, "images": {}}


def options(folder, **own):
    return RemovalOptions(
        **{"setting": "families", "output_dir": str(folder), "seeds": "1,2", "workers": 1, "use_cpu": True,
           "methods": f"labels,labels@30,outputs,{GC}"} | own
    )  # fmt: skip


def measured(accuracy, *splits):
    return {"target": dict.fromkeys(splits or ("validation", "test"), accuracy)}


def fill(study, twins=True):
    """Results of all pieces; `labels` keeps 90 % and leaks what its twin does, `outputs` keeps all and leaks more."""
    disposed = {
        "labels": (0.68, 0.5, 0.6),
        "labels@30": (0.58, 0.4, 0.5),
        "outputs": (0.7, 0.6, 0.7),
        GC: (0.7, 0.7, 0.8),
    }
    for seed in (study.options.tuning_seed, *study.seeds):
        splits = ("validation",) if seed == study.options.tuning_seed else ()
        for role, trial in study.references(seed).items():
            own = measured(TARGET[role], *splits) if role in TARGET else {}
            write(trial, own | {"attacks": learned(role, LEVELS[role])})
        for contender in study.contenders:
            accuracy, *levels = disposed[contender.name]
            result = {"cost": {"wall": 3.0}, "bytes": 500 if "labels" in contender.name else None}
            result |= measured(accuracy, *splits) | {"attacks": learned("scrubbed", levels)}
            write(study.disposal(contender, seed), result)
        for trial in (study.before_tuning(), *study.on_seeds("seed")):
            write(trial, TRAINED | measured(0.7))
        if splits:
            continue
        for trial in study.labels(seed):
            write(trial, {"labels": 1} | measured(0.5))
        if twins:
            for twin in study.twins(seed).values():
                write(twin.needs[0], {contender.name: 25 for contender in study.finalists})
                write(twin, {"labels": 25} | measured(0.69) | {"attacks": learned("twin", (0.5, 0.6))})


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    study = removal_study(options(tmp_path_factory.mktemp("removal") / "out"))
    study.start()
    fill(study)
    return study, study_removal(study.options, lambda line: None)


def test_what_is_kept_and_what_leaks_over_the_twin_and_over_the_retrained_model(done):
    _, summary = done
    rows = {row.name: row for row in summary.rows}
    assert rows["labels"].kept == pytest.approx((0.68 - 0.5) / (0.7 - 0.5))
    assert rows["labels"].over_best.mean == pytest.approx(0.0) and rows["labels"].over_best.floors == ("twin",)
    assert rows["labels"].over_retrained.mean == pytest.approx(0.1 / 0.4)
    assert rows["outputs"].over_best.mean == pytest.approx(0.1 / 0.3)
    assert rows["outputs"].over_best.high > rows["outputs"].over_best.mean - 1e-9
    assert rows["labels"].labels == (25, 25) and rows["labels"].twin.mean == pytest.approx(0.69)
    assert rows["labels"].goal and not rows["outputs"].goal and rows["outputs"].bytes is None
    assert {row.name for row in summary.references} == {"undisposed", "retrained", "scratch"}


def test_screening_puts_first_what_keeps_enough_and_collision_is_in_every_table(done):
    study, summary = done
    assert order(study) == ["labels", "outputs", GC, "labels@30"]
    assert {row.name for row in summary.rows} == {"labels", "outputs", GC}
    assert [row.name for row in summary.screened] == ["labels", "labels@30", "outputs", GC]


def test_a_setting_counts_by_its_gap_and_its_transfer(done, tmp_path):
    assert done[1].gate == {
        "transfer": pytest.approx(0.2),
        "gap": pytest.approx(0.4),
        "floors": ("retrained",),
        "counts": True,
    }
    study = removal_study(options(tmp_path))
    study.start()
    fill(study, twins=False)
    weak = study.references(study.options.tuning_seed)["undisposed"]
    write(weak, measured(0.57, "validation") | {"attacks": learned("undisposed", (0.8, 0.9))})
    assert study.summary().gate["counts"] is False


def test_what_is_written(done):
    study, _ = done
    text = (study.output / "table.md").read_text()
    assert "it counts" in text and "500 B" in text and "none" in text and "✓" in text
    values = json.loads((study.output / "results.json").read_text())
    assert values["suite"] == "standard-1" and values["hashes"]["standard-1"] == SUITES["standard-1"].hashes[0]
    assert (study.output / "removal.png").stat().st_size > 10_000


def test_a_document_has_the_table_of_the_results_file(done):
    study, summary = done
    values = json.loads((study.output / "results.json").read_text())
    shown, own = removal_rows(values), main_table(summary).markdown()
    assert [line for line in shown.splitlines() if line.startswith("|")] == [
        line for line in own.splitlines() if line.startswith("|")
    ]


def test_without_all_pieces_the_tables_are_of_what_is_there(tmp_path):
    study = removal_study(options(tmp_path))
    study.start()
    fill(study, twins=False)
    study.disposal(study.contenders[0], 2).path.unlink()
    summary = study.summary()
    assert summary.left == ("labels",) and {row.name for row in summary.rows} == {"outputs", GC}
    assert all(row.over_best.floors == ("retrained",) and row.labels == () for row in summary.rows)


def test_a_piece_waits_for_the_model_that_it_is_made_of(tmp_path):
    study = removal_study(options(tmp_path))
    before = {trial.path for trial in study.training_trials()}
    for seed in (1000, 1):
        for contender in study.contenders:
            (needed,) = study.disposal(contender, seed).needs
            assert needed.path in before and str(seed) in needed.title
        (needed,) = study.references(seed)["undisposed"].needs
        assert needed.path in before
        assert study.references(seed)["retrained"].needs == () and study.labels(1)[0].needs == ()


def test_a_channel_with_images_is_asked_for_by_name():
    found = Contender.of("outputs:4@30", "glyphs[N,Q]", 2, None)
    assert found.method == "anchored_distillation" and found.options == {
        "method": "anchored_distillation", "channel": "outputs:4", "base_model": None,
        "transfer_dataset": "glyphs[N,Q]", "transfer_images": 60,
    }  # fmt: skip
    assert "transfer_images" not in Contender.of("labels@all", "glyphs[N,Q]", 2, None).options
    for name, message in (("labels@many", "a number of images a class"), ("outputs:1", "channel='outputs:1'")):
        with pytest.raises(ConfigError, match=message):
            Contender.of(name, "glyphs[N,Q]", 2, None)


def test_finalists_are_among_the_methods(tmp_path):
    with pytest.raises(ConfigError, match="--finalists scrub: they are not among the methods"):
        removal_study(options(tmp_path, finalists="scrub"))


TINY = {
    "forget": "mnist[0-2]", "retain": "mnist[6-8]", "train_epochs": 1, "steps": 2, "forget_images_per_class": 20,
    "retain_images_per_class": 4, "max_eval_images": 40, "image_size": 14, "adapt_epochs": 60, "retrain_epochs": 2,
    "adapt_learning_rate": 3e-3,
}  # fmt: skip


def test_from_data_to_table(tmp_path, monkeypatch):
    small = replace(SUITES["quick-1"], attacks=("class_means",), budgets=(2,), seeds=(0, 1))
    monkeypatch.setitem(SUITES, "quick-1", small)
    own = options(
        tmp_path / "out", seeds="1", methods="labels@5,outputs", finalists="labels@5", suite="quick-1",
        override=json.dumps(TINY),
    )  # fmt: skip
    lines = []
    summary = study_removal(own, lines.append)
    assert [row.name for row in summary.screened] == ["labels@5", "outputs"]
    (row,) = summary.rows
    assert row.name == "labels@5" and row.bytes == 4 and len(row.labels) == 1 and row.learned.keys() == {2}
    assert {one.name for one in summary.references} == {"undisposed", "retrained", "scratch", "no_model"}
    again = []
    assert study_removal(own, again.append) == summary and not [line for line in again if line.startswith("[")]


@pytest.mark.parametrize("drawn", [None, 20])
def test_a_job_has_its_own_seeds_images(tmp_path, drawn):
    study = removal_study(options(tmp_path, override=json.dumps(TINY | {"forget_images_per_class": drawn})))
    study.start()
    for seed in (1, 2):
        trial = study.trained(seed)
        own, whole = trial.load(), WholeTaskJob(replace(trial.options, output_dir=str(tmp_path / f"whole{seed}")))
        for task, split in (("source", "train"), ("target", "train"), ("target", "test")):
            one, other = (job.images[task][split] for job in (own, whole))
            assert torch.equal(one.pixel_values, other.pixel_values) and torch.equal(one.labels, other.labels)
        assert own.scenario.spec == whole.scenario.spec and own.run.folder == study.output / "seeds" / str(seed)
        assert all(map(torch.equal, own.model.state_dict().values(), whole.model.state_dict().values()))


def test_when_the_time_is_up_nothing_is_begun(tmp_path):
    lines = []
    assert study_removal(options(tmp_path, minutes=-1.0), lines.append) is None
    assert any(line.startswith("Time is up. Left of this part: tuning seed") for line in lines)
