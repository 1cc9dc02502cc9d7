"""Break a formula at a time in a copy of the repository, and see whether the quick tests notice: `make mutations`.

A mutation is caught when the tests named for it fail on it; before that, all of them must pass on what is unbroken.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]


class Mutation(NamedTuple):
    """A formula, the file and the text that it is written in, what stands there instead, and who should notice."""

    formula: str
    file: str
    text: str
    instead: str
    tests: str


MUTATIONS = (
    Mutation(
        "gradient collision: a chunk collides with the others, not with itself",
        "functional/collision.py", "[s - a.detach() for s, a in zip(", "[s + 0 * a.detach() for s, a in zip(",
        "functional/test_collision.py",
    ),
    Mutation(
        "projection: an update leaves the protected directions whole",
        "functional/subspace.py", "(rows @ vectors) @ vectors.mT)", "(rows @ vectors) @ vectors.mT / 2)",
        "functional/test_subspace.py",
    ),
    Mutation(
        "subspace: the fewest directions that hold the energy",
        "functional/subspace.py", "ranks = (sums < needed", "ranks = (counted < needed",
        "functional/test_subspace.py",
    ),
    Mutation(
        "PCGrad: components that conflict are taken out, and those alone",
        "functional/orthogonal.py", "torch.dot(changed[i], units[j]).clamp_max(0)", "torch.dot(changed[i], units[j])",
        "functional/test_orthogonal.py",
    ),
    Mutation(
        "probe of representation erasure: ridge regression",
        "functional/erasure.py", "gram[:, a, a] + noise,", "gram[:, a, a] + noise / 2,",
        "functional/test_erasure.py",
    ),
    Mutation(
        "selective synaptic dampening: by I_D / I_f",
        "functional/synaptic_dampening.py",
        "(dampening * d / f).clamp_max(1.0)", "(dampening * (d / f).sqrt()).clamp_max(1.0)",
        "functional/test_synaptic_dampening.py",
    ),
    Mutation(
        "Unlearning Impact Score: relative to the accuracy before",
        "functional/metrics.py", "forgetting = abs(o_t - u_f) / o_t", "forgetting = abs(o_t - u_f)",
        "functional/test_metrics.py",
    ),
    Mutation(
        "piggyback learning: the strongest attack is chosen on validation images",
        "audit/axis_leakage.py", "return self.validation_accuracy, self.mean", "return self.mean, self.mean",
        "audit/test_axis_leakage.py",
    ),
    Mutation(
        "leakage: a ratio of sums over the floor",
        "audit/estimate.py",
        "self.floor).sum() / (self.undisposed", "self.floor).sum() / (1 + self.undisposed",
        "audit/test_axis_leakage.py",
    ),
    Mutation(
        "bounds of the leakage: t of 95 % at each end",
        "audit/estimate.py", "cov(draws) * student.ppf(CONFIDENCE,", "cov(draws) * student.ppf(CONFIDENCE**2,",
        "audit/test_axis_leakage.py",
    ),
    Mutation(
        "gate: the gap is shown to be large enough before there is a number",
        "audit/estimate.py", "gap.low >= GAP", "gap.mean >= GAP",
        "audit/test_estimate.py",
    ),
)  # fmt: skip


def passes(copy: Path, *tests: str) -> bool:
    """Whether `make quick`'s tests of these files pass in the copy."""
    command = [sys.executable, "-m", "pytest", "--quick", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, *(f"tests/{test}" for test in tests)],
        cwd=copy, env=os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (0, 1):  # 1: a test failed; anything else says nothing about a formula
        raise SystemExit(f"The tests could not be run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.returncode == 0


def main() -> None:
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("hf_dtl", "scripts", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        if not passes(copy, *dict.fromkeys(mutation.tests for mutation in MUTATIONS)):
            raise SystemExit("The tests fail before anything is broken. Run `make quick` first.")
        for mutation in MUTATIONS:
            path = copy / "hf_dtl" / mutation.file
            whole = path.read_text(encoding="utf-8") if path.exists() else ""
            if whole.count(mutation.text) != 1:
                raise SystemExit(f"hf_dtl/{mutation.file} no longer holds {mutation.text!r} once: renew the mutation.")
            path.write_text(whole.replace(mutation.text, mutation.instead), encoding="utf-8")
            caught = not passes(copy, mutation.tests)
            path.write_text(whole, encoding="utf-8")
            print("caught  " if caught else "SURVIVED", mutation.formula, flush=True)
            survived += not caught
    print(f"{len(MUTATIONS) - survived} of {len(MUTATIONS)} caught")
    sys.exit(survived > 0)


if __name__ == "__main__":
    main()
