"""Table, results and picture of a study whose trials are written by hand, so that every number is known."""

import json

import pytest
from study_toys import learned, tiny, write

from study.main_job import main_study, reproduce

REFERENCES = {"undisposed": (0.8, 0.9), "retrained": (0.4, 0.5), "scratch": (0.3, 0.4)}
TRIED = {
    "negative_ce": (0.95, 0.94, 0.90),  # 3 is the strongest within two points of 0.95
    "random_fooling": (0.92, 0.91, 0.90),  # none is: 1 keeps most
    "uniform_fooling": (None, None, None),
}
MACHINE = {"device": "x86_64", "threads": 1, "python": "3", "torch": "2", "transformers": "5"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "out"
    options = tiny(
        folder, seeds="0,1,2", methods=",".join([*TRIED, "gradient_collision:forget_weight=2"]), budgets="5,20",
        attacks="full", margin=0.02,
    )  # fmt: skip
    study = main_study(options)
    study.start()
    negative, fooling, _, given = study.methods
    seed = {"cost": {"cpu": 10.0, "wall": 99.0}, "clock": "cpu", "parameters": 300_000, "machine": MACHINE}
    seed["images"] = {"source": {"train": 192}}
    write(study.before_tuning(), seed | {"validation": {"undisposed": 0.95}})
    for method, values in zip(study.methods, TRIED.values(), strict=False):
        for trial, value in zip(study.tuning(method).values(), values, strict=True):
            write(trial, {"diverged": "loss is nan"} if value is None else {"validation": value})
    for number, trial in enumerate(study.on_seeds("seed")):
        target = {"undisposed": 0.95, "retrained": 0.90 + 0.01 * number}
        write(trial, seed | {"target": target, "source": {"undisposed": 0.98}})
    for number, trial in enumerate(study.on_seeds("references")):
        levels = REFERENCES if number < 2 else REFERENCES | {"retrained": (0.8, 0.9)}  # no gap on the last seed
        write(trial, {"attacks": [entry for role, values in levels.items() for entry in learned(role, values)]})
    cost = {"cpu": 5.0, "wall": 1.0}
    for number, trial in enumerate(study.on_seeds("method", "", negative.at(3.0))):
        disposal = {"target": 0.95 - 0.001 * (number + 2), "source": 0.2, "cost": None if number == 0 else cost}
        write(trial, disposal | {"attacks": learned("scrubbed", (0.6 + 0.1 * number, 0.7 + 0.1 * number))})
    for trial in study.on_seeds("method", "", fooling.at(1.0)):
        write(trial, {"diverged": "loss is nan"})
    for trial in study.on_seeds("method", "", given.at(2.0)):
        disposal = {"target": 0.96, "source": 0.2, "cost": cost}
        write(trial, disposal | {"attacks": learned("scrubbed", (0.4, 0.5))})
    lines = []
    summary = reproduce(options, lines.append)
    return folder, summary, lines


def test_finished_cells_are_not_done_again(written):
    folder, _, lines = written
    assert not (folder / "seeds" / "0" / "stages").exists()
    assert "16 of 16" not in "".join(lines) and "12 of 12 were finished before." in lines
    assert "9 of 9 were finished before." in lines


def test_numbers_by_hand(written):
    _, summary, _ = written
    negative, fooling, given = summary.rows
    assert (negative.name, negative.chosen.kept) == ("negative_ce:forget_weight=3", True)
    assert (fooling.name, fooling.chosen.kept) == ("random_fooling:forget_weight=1", False)
    assert given.chosen.kept is None
    leaked = negative.over_retrained
    assert leaked.over.values == (pytest.approx(0.5), pytest.approx(0.75), None)
    assert leaked.over.mean == pytest.approx(0.625) and leaked.over.deviation == pytest.approx(0.25 / 2**0.5)
    assert leaked.undefined[0] is None and "weights do not matter here" in leaked.undefined[2]
    assert negative.over_scratch.over.values == pytest.approx((0.6, 0.8, 1.0))
    assert negative.loss_points.mean == pytest.approx(0.3) and negative.loss_points.deviation == pytest.approx(0.1)
    assert negative.learned[20].values == pytest.approx((0.7, 0.8, 0.9))
    assert negative.cost.values == (None, 0.5, 0.5) and negative.attacks == {"full": 6}
    assert fooling.diverged == 3 and fooling.target.mean is None
    assert set(fooling.over_retrained.undefined) == {"the disposal diverged"}
    assert given.over_scratch.over.mean == pytest.approx(0.2) and given.loss_points.mean == pytest.approx(-1)
    assert [row.goal for row in summary.rows] == [None, None, None], "one seed is undefined"
    assert "diverged at every strength" in summary.failed["uniform_fooling"]
    retrained = summary.references[1]
    assert retrained.loss_points.mean == pytest.approx(4) and retrained.learned[5].mean == pytest.approx(1.6 / 3)


def test_table_reads_well(written):
    folder, *_ = written
    text = (folder / "table.md").read_text()
    for part in (
        "| negative_ce:forget_weight=3 | 0.625 ± 0.177 (2 of 3) | 0.800 ± 0.200 | +0.30 ± 0.10 | 0.950 ± 0.000 |",
        "| random_fooling:forget_weight=1 † | undefined | undefined | – |",
        "| gradient_collision:forget_weight=2 ‡ | 0.000 ± 0.000 (2 of 3) |",
        "| (retrained) | 0 |  | +4.00 ± 1.00 |",
        "1: 0.950 | **3: 0.940** | 10: 0.900 |",
        "`uniform_fooling` has no row: The training diverged at every strength",
        "Seed 2, leakage over retrained is undefined: weights do not matter here (undisposed over the retrained model",
        "**1: 0.920**",
        "Made on 20",
        "python scripts/reproduce.py --setting mnist_vit --seeds 0,1,2",
        "x86_64, 1 thread(s) a process, python 3, torch 2",
        "![Target accuracy lost and leakage of every method](tradeoff.png)",
    ):
        assert part in text, part
    assert str(folder.parent) not in text


def test_results_and_picture(written):
    folder, summary, _ = written
    text = (folder / "results.json").read_text()
    found = json.loads(text)
    assert str(folder.parent) not in text and "NaN" not in text
    assert found["seeds"] == [0, 1, 2] and found["tuning_seed"] == 1000 and found["margin"] == 0.02
    assert found["options"]["steps"] == 3 and found["machine"] == MACHINE and found["date"]
    row = found["summary"]["rows"][0]
    assert row["name"] == "negative_ce:forget_weight=3" and row["goal"] is None
    assert row["over_retrained"]["over"]["values"][2] is None
    assert row["chosen"]["tried"] == {"1.0": 0.95, "3.0": 0.94, "10.0": 0.9}
    assert (folder / "tradeoff.png").stat().st_size > 10_000
    picture = (folder / "tradeoff.svg").read_text()
    assert picture.count("undefined: ") >= 1 and "goal: leakage ≤ 0.05" in picture


def test_goal_needs_every_seed_and_both_means(written):
    from dataclasses import replace

    from study.tables import Average
    from study.tables.main_job import Leakage

    row = written[1].rows[0]
    for leaked, lost, goal in (
        ((0.04, 0.06), (0.4, 0.6), True),
        ((0.05, 0.07), (0.4, 0.6), False),
        ((0.0, 0.0), (0.5, 0.6), False),
        ((-0.3, None), (0.0, 0.0), None),
    ):
        over = Leakage(Average.of(leaked), (None, None))
        assert replace(row, over_retrained=over, loss_points=Average.of(lost)).goal is goal
