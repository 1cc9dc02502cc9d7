import json

import pytest
from accelerate import PartialState

from hf_dtl.errors import OutputError
from hf_dtl.pipeline.stages import Run, replace_folder, write_atomically
from hf_dtl.trainers.checkpoints import RECORD, record_files
from hf_dtl.trainers.training import last_checkpoint


@pytest.fixture
def state():
    return PartialState(cpu=True)


def test_a_finished_stage_is_not_done_again(tmp_path, state):
    done = []

    def work(folder):
        done.append(folder.name)
        (folder / "result").write_text("whole")

    for _ in range(2):
        folder = Run(tmp_path / "out", {"seed": 1}, state).stage("adapt", work)
        assert (folder / "result").read_text() == "whole" and folder.name == "adapt"
    assert done == ["adapt.partial"]


def test_an_interrupted_stage_finds_its_checkpoints_and_never_looks_finished(tmp_path, state):
    def cut_off(folder):
        for step, text in ((5, json.dumps({"global_step": 5})), (10, '{"global_st')):
            checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "trainer_state.json").write_text(text)
            if step == 5:
                record_files(checkpoint)
        (folder / "checkpoints" / "checkpoint-15").mkdir()
        raise KeyboardInterrupt

    run = Run(tmp_path / "out", {"seed": 1}, state)
    with pytest.raises(KeyboardInterrupt):
        run.stage("adapt", cut_off)
    assert not (run.folder / "stages" / "adapt").exists()
    found = []
    folder = run.stage("adapt", lambda folder: found.append(last_checkpoint(folder / "checkpoints")))
    assert found[0].endswith("checkpoint-5"), "checkpoints that were cut off are not resumed from"
    assert [path.name for path in folder.iterdir()] == [RECORD], "checkpoints of a finished stage are dropped"


def test_another_run_is_refused_and_left_alone(tmp_path, state):
    Run(tmp_path / "out", {"seed": 1, "source": "a"}, state)
    with pytest.raises(OutputError, match=r"holds another run \(seed: 1 there, 2 now\).*Choose another --output_dir"):
        Run(tmp_path / "out", {"seed": 2, "source": "a"}, state)
    assert json.loads((tmp_path / "out" / "run.json").read_text()) == {"seed": 1, "source": "a"}


def test_a_folder_of_something_else_is_refused(tmp_path, state):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match="thesis.tex"):
        Run(tmp_path, {}, state)
    with pytest.raises(OutputError, match="is a file"):
        Run(tmp_path / "thesis.tex", {}, state)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_replacing_keeps_the_old_until_the_new_is_whole(tmp_path):
    write_atomically(tmp_path / "a", "old")
    write_atomically(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    for text in ("old", "new"):
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / "f").write_text(text)
        replace_folder(tmp_path / "part", tmp_path / "folder")
    assert (tmp_path / "folder" / "f").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "folder"]
