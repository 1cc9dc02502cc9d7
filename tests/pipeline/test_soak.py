"""A job that is killed again and again ends with what it would have given anyway."""

import json
import os
import random
import subprocess
import sys
import time

import pytest
from safetensors.torch import load_file

JOB = """
forget --forget mnist[0,1,2] --retain mnist[6,7] --novel none --forget_images_per_class 20 --train_epochs 6
--adapt_epochs 6 --retrain_epochs 6 --steps 12 --save_steps 2 --batch_size 8 --image_size 14 --reference retrain
--attacks ridge,linear_probe,full --budgets 1,2 --seeds 0,1 --max_eval_images 40 --use_cpu --method negative_ce,scrub
""".split()
KILLS = int(os.environ.get("KILLS", 20))
MODELS = ("scrubbed", "undisposed", "retrained", "methods/scrub/scrubbed")


def start(folder):
    words = [sys.executable, "-m", "hf_dtl.cli", *JOB, "--output_dir", str(folder)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def left(folder):
    """What a run gives, without what it took."""
    reports = [folder / "leakage_report.json", folder / "methods/scrub/leakage_report.json"]
    return [json.loads(path.read_text())[part] for path in reports for part in ("piggyback", "leakage", "weights")]


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    begun = time.monotonic()
    whole = start(tmp_path / "whole")
    while not (tmp_path / "whole" / "stages").exists() and whole.poll() is None:
        time.sleep(0.05)
    loading = time.monotonic() - begun
    assert whole.wait() == 0
    working = time.monotonic() - begun - loading
    draw, kills, runs = random.Random(0), 0, 0
    while kills < KILLS:
        runs += 1
        folder = tmp_path / f"killed{runs}"
        while True:
            job = start(folder)
            wait = loading * draw.uniform(0.8, 1) + working * draw.uniform(0, 0.2)  # everywhere in it
            try:
                job.wait(wait if kills < KILLS else None)
            except subprocess.TimeoutExpired:
                job.kill()
                job.wait()
                kills += 1
                continue
            assert job.returncode == 0
            break
        assert left(folder) == left(tmp_path / "whole")
        for name in MODELS:
            mine, other = (load_file(place / name / "model.safetensors") for place in (folder, tmp_path / "whole"))
            assert mine.keys() == other.keys() and all(mine[key].equal(other[key]) for key in mine), name
    print(f"{kills} kills in {runs} runs of {loading + working:.0f} seconds: bit-identical")
