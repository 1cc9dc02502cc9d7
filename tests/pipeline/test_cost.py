"""What a stage costs, and when that is not known."""

import pytest
import torch

from hf_dtl.pipeline.cost import COST, Cost, read_cost
from hf_dtl.pipeline.whole_task_job import WholeTaskJob


def test_time_and_the_memory_that_was_taken_in_between(tmp_path):
    cost = Cost(tmp_path / COST, torch.device("cpu"))
    kept = torch.ones(100 * 2**18).mul(2)  # 100 MiB, and as many for the ones
    del kept
    cost.save()
    found = read_cost(tmp_path)
    assert found["cpu"] > 0 and found["wall"] > 0
    if "peak_mib" not in found:
        pytest.skip("this system does not tell the highest memory of a process")
    assert 90 < found["peak_mib"] < 400


def test_the_cost_of_a_stage_that_was_cut_in_two_is_not_known(tmp_path):
    class Job(WholeTaskJob):
        class state:
            device = torch.device("cpu")

        def __init__(self):
            pass

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    (cut / "checkpoints" / "checkpoint-5").mkdir(parents=True)
    assert Job()._cost(whole) is not None and Job()._cost(cut) is None
    assert read_cost(cut) is None
