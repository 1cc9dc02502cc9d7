"""Multi-task unlearning on two processes."""

import multitask_toys
import pytest
import torch
from launching import run_on_two
from multitask_toys import CASES, logged, run
from safetensors.torch import load_file

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    output = tmp_path_factory.mktemp("two")
    status, _, err = run_on_two(multitask_toys.__file__, output)
    assert status == 0, err[-4000:]
    return output


@pytest.mark.parametrize("case", CASES)
def test_two_processes_match_one(two_processes, tmp_path, case):
    one = run(case, tmp_path)
    ranks = [load_file(two_processes / f"{case}-rank{rank}.safetensors") for rank in (0, 1)]
    assert ranks[0]["world_size"] == 2
    states = (one.model.state_dict(), *ranks, one.teacher.state_dict())
    names = [n for n, v in states[0].items() if v.is_floating_point()]
    mine, first, second, given = (torch.cat([s[n].double().ravel() for n in names]) for s in states)
    assert torch.equal(first, second), "the ranks diverged"
    assert (mine - given).norm() / given.norm() > 1e-3, "nothing was trained"
    assert (first - mine).norm() / mine.norm() < 1e-5
    for name, values in logged(one).items():
        torch.testing.assert_close(ranks[0][f"log.{name}"], values, rtol=1e-3, atol=1e-6)
