"""Two real processes, forked: an error on one of them is an error on both."""

import multiprocessing
import os
import socket

import pytest
import torch

from hf_dtl.errors import DataError
from hf_dtl.processes import one_core_each, together


def worker(rank, port, failing, queue):
    from accelerate import PartialState

    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    PartialState._reset_state()
    assert PartialState(cpu=True).num_processes == 2

    def work():
        if rank in failing:
            raise failing[rank]
        return rank

    try:
        queue.put((rank, together(work)))
    except Exception as error:
        queue.put((rank, f"{type(error).__name__}: {error}"))


@pytest.mark.distributed
@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ({}, {0: 0, 1: 1}),
        ({1: DataError("no images")}, dict.fromkeys((0, 1), "DataError: no images")),
        ({0: KeyError("x")}, {0: "KeyError: 'x'", 1: "RuntimeError: KeyError: 'x'"}),
        ({0: DataError("mine"), 1: DataError("yours")}, {0: "DataError: mine", 1: "DataError: yours"}),
    ],
)
def test_an_error_on_one_process_is_raised_on_both(failing, expected):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(rank, port, failing, queue)) for rank in (0, 1)]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(timeout=60)
    assert found == expected


def test_alone_it_is_a_plain_call():
    assert together(lambda: 3) == 3
    with pytest.raises(KeyError):
        together(lambda: {}["x"])


def test_networks_side_by_side_share_the_cores_unless_the_user_said_how_many(monkeypatch):
    cpu = torch.device("cpu")
    assert "OMP_NUM_THREADS" in os.environ and one_core_each(cpu, 1) == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(12))
    assert [one_core_each(cpu, processes) for processes in (1, 2, 5, 24)] == [8, 6, 2, 1]
    assert torch.get_num_threads() == 1 and one_core_each(torch.device("cuda"), 1) == 1
