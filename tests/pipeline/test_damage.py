"""What goes wrong under a run: cut files, a full disk, a second process, weights that are not finite."""

import errno
import logging
import os
import signal
import subprocess
import sys

import launching
import pytest
import torch
from accelerate import PartialState
from launching import Program
from safetensors.torch import save_file
from toy_tasks import images, two_headed

from hf_dtl.cli.terminal import refused_by_the_disk, run_command
from hf_dtl.errors import DivergedError, OutputError
from hf_dtl.pipeline.stages import Run
from hf_dtl.trainers.checkpoints import drop_damaged
from hf_dtl.trainers.training import _ClassifierTrainer, fine_tune, last_checkpoint

OPTIONS = dict(per_device_train_batch_size=8, max_steps=6, save_steps=2, learning_rate=1e-2, use_cpu=True, seed=1)
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "files.json")


@pytest.fixture
def state():
    return PartialState(cpu=True)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A fine-tuning that was stopped at its sixth step, its images, and the weights of one that was not."""
    folder, data, given = tmp_path_factory.mktemp("stopped"), images("mnist[0,1,2,3,4,5]"), two_headed()
    whole = fine_tune(given.export("source"), data, folder / "whole", "fit", **OPTIONS).state_dict()
    step = _ClassifierTrainer.training_step

    def interrupted(self, *args, **kwargs):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(_ClassifierTrainer, "training_step", interrupted)
        fine_tune(two_headed().export("source"), data, folder / "cut", "fit", **OPTIONS)
    return folder / "cut", data, whole


def copied(folder, to):
    subprocess.run(["cp", "-r", folder, to], check=True)
    return to / "checkpoints"


@pytest.mark.parametrize("how", ("cut", "gone", "zeros"))
def test_a_checkpoint_counts_only_with_all_of_its_files(stopped, tmp_path, how, caplog):
    folder, data, whole = stopped
    for name in FILES:
        checkpoints = copied(folder, tmp_path / name)
        assert {path.name for path in checkpoints.iterdir()} == {"checkpoint-2", "checkpoint-4"}
        path = checkpoints / "checkpoint-4" / name
        content = path.read_bytes()
        if how == "gone":
            path.unlink()
        else:  # zeros are what a power cut leaves of that which was not on the disk yet
            path.write_bytes(content[: len(content) // 2] if how == "cut" else bytes(len(content)))
        with caplog.at_level(logging.WARNING):
            drop_damaged(checkpoints)
        assert f"checkpoint-4 is not whole ({name})" in caplog.text and "goes on from checkpoint-2" in caplog.text
        assert last_checkpoint(checkpoints).endswith("checkpoint-2"), name
        caplog.clear()
    resumed = fine_tune(two_headed().export("source"), data, tmp_path / FILES[0], "fit", **OPTIONS).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_what_only_looks_like_a_checkpoint_is_removed(stopped, tmp_path):
    checkpoints = copied(stopped[0], tmp_path / "run")
    (checkpoints / "checkpoint-999").mkdir()
    (checkpoints / "checkpoint-7").write_text("x")
    os.utime(checkpoints / "checkpoint-2", (2e9, 2e9))  # the clock went back
    drop_damaged(checkpoints)
    assert last_checkpoint(checkpoints).endswith("checkpoint-4")


def save(folder, value=1.0):
    save_file({"weight": torch.tensor([1.0, value]), "steps": torch.tensor(3)}, folder / "model.safetensors")


@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_a_stage_that_diverged_is_not_finished(tmp_path, state, value):
    run = Run(tmp_path / "out", {}, state)
    with pytest.raises(DivergedError, match=r"diverged in the stage pretrain: weight in model.*smaller learning rate"):
        run.stage("pretrain", lambda folder: save(folder, value))
    assert not list((run.folder / "stages").glob("pretrain*"))
    assert (run.stage("pretrain", save) / "model.safetensors").exists()


def test_a_training_that_diverges_ends_with_a_word(tmp_path, state):
    data, run = images("mnist[0,1,2,3,4,5]"), Run(tmp_path / "out", {}, state)

    def work(folder):
        model = two_headed().export("source")
        fine_tune(model, data, folder, "fit", **OPTIONS | {"learning_rate": 1e20}).save_pretrained(folder)

    with pytest.raises(DivergedError, match="diverged in the stage adapt"):
        run.stage("adapt", work)


@pytest.mark.parametrize("how", ("cut", "gone", "other"))
def test_a_damaged_stage_is_done_anew_and_said(tmp_path, state, how, caplog):
    run, done = Run(tmp_path / "out", {}, state), []

    def work(folder):
        done.append(folder)
        save(folder)

    file = run.stage("adapt", work, "a") / "model.safetensors"
    whole = file.read_bytes()
    run.stage("adapt", work, "a")
    assert len(done) == 1
    file.unlink() if how == "gone" else file.write_bytes(whole[:40] if how == "cut" else whole[:-1] + b"x")
    with caplog.at_level(logging.WARNING):
        run.stage("adapt", work, "a")
    assert len(done) == 2 and file.read_bytes() == whole
    assert "adapt is done anew: model.safetensors is damaged" in caplog.text


@pytest.mark.parametrize("content", (b"", b"[]x", b"[1, 2]", b"\xff\xfe", b"{", b"[" * 100_000, b"null"))
def test_a_damaged_record_of_a_run(tmp_path, state, content):
    Run(tmp_path / "out", {"seed": 1}, state)
    (tmp_path / "out" / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"run.json is damaged.*Choose another --output_dir, or delete"):
        Run(tmp_path / "out", {"seed": 1}, state)
    assert (tmp_path / "out" / "run.json").read_bytes() == content


HOLDING = """
import sys, time
from pathlib import Path
from accelerate import PartialState
from hf_dtl.pipeline.stages import Run
run = Run(sys.argv[1], {"seed": 1}, PartialState(cpu=True))
Path(sys.argv[1], "held").touch()
time.sleep(99)
"""


def test_a_second_process_is_told_who_works_here(tmp_path, state):
    script, out = tmp_path / "holding.py", tmp_path / "out"
    script.write_text(HOLDING)
    first = Program(script, out)
    try:
        while not (out / "held").exists():
            assert first.poll() is None, first.communicate()
        with pytest.raises(OutputError, match=rf"belongs to process {first.pid} on .*, since 20.*still running"):
            Run(out, {"seed": 1}, state)
        first.send_signal(signal.SIGKILL)
        first.communicate()
        mine = Run(out, {"seed": 1}, state)
        assert Run(out, {"seed": 1}, state).folder == mine.folder, "one process may go on in its own"
        status, _, err = launching.run(script, out)
        assert status == 1 and f"belongs to process {os.getpid()}" in err
    finally:
        first.kill()


class Parsed:
    """A command without words."""

    def parse(self, words):
        return None


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize(
    "write", (lambda path: path.write_text("x" * 10), lambda path: torch.save(torch.ones(9), path))
)
def test_a_full_disk_is_told_in_one_line(tmp_path, write):
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(SystemExit, match="OutputError: No space left on device.*Start the same command again"):
        run_command(Parsed(), lambda options: write(tmp_path / "full"), [])


def test_what_the_disk_refused_is_found_behind_other_errors():
    rust = Exception("Error while serializing: I/O error: No space left on device (os error 28)")
    assert refused_by_the_disk(rust) == "No space left on device"
    try:
        try:
            raise PermissionError(errno.EROFS, "Read-only file system", "/x/run.json")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert refused_by_the_disk(error) == "Read-only file system: /x/run.json"
    assert refused_by_the_disk(RuntimeError("shape mismatch")) == ""
    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_command(Parsed(), lambda options: (_ for _ in ()).throw(RuntimeError("shape mismatch")), [])


@pytest.mark.parametrize("encoding", ("ascii", "latin-1", "utf-8"))
def test_a_terminal_of_any_encoding_is_printed_to(encoding):
    code = (
        "from hf_dtl.cli.terminal import run_command, say\n"
        "class Parsed:\n    parse = staticmethod(lambda words: None)\n"
        "run_command(Parsed(), lambda options: say('0.5 \\u00b1 0.1 \\u2013 caf\\u00e9 \\u732b'), [])"
    )
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, timeout=60)
    says = {"ascii": "0.5 +- 0.1 - caf? ?", "latin-1": "0.5 ± 0.1 - café ?", "utf-8": "0.5 ± 0.1 – café 猫"}
    assert ran.returncode == 0 and ran.stdout.decode(encoding).strip() == says[encoding], ran.stderr
