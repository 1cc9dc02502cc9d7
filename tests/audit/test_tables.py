import io
from dataclasses import replace

import pytest
from audit_toys import HAND, large_report, records, report, tasks_report
from rich.console import Console

from hf_dtl.audit import comparison_markdown, comparison_table, markdown_table, table
from hf_dtl.errors import DataError


def printed(*tables):
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(*tables)
    return console.file.getvalue()


def test_tables_show_the_four_models_with_deviation_and_fit_100_columns():
    found = report()
    text, markdown = printed(*table(found)), markdown_table(found)
    for words in (
        "0.950",
        "0.940",
        "0.960",
        "0.160",
        "0.364 [0.364, 0.364]",
        "0.562 [0.562, 0.562]",
        "0.800 ± 0.020",
        "0.650 ± 0.020",
    ):
        assert words in text and words in markdown, words
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text


def test_class_names_in_brackets_are_printed_not_taken_for_markup():
    found = replace(report(), piggyback=tuple(records(HAND, dataset="cifar10[cat,dog]")))
    assert "cifar10[cat,dog]" in printed(*table(found))


def rows_of(markdown, first):
    """The cells of the rows whose first cell begins so."""
    lines = [line.strip("| ").split(" | ") for line in markdown.splitlines() if line.startswith(f"| {first}")]
    return [[cell.strip() for cell in line] for line in lines]


def test_the_attack_tables_hold_every_attack_with_its_leakage():
    found = large_report()
    markdown, axis = markdown_table(found), found.axes["source_subset"]
    for attack, ratio in axis.by_attack.items():
        name = attack + (" (strongest)" if attack == axis.strongest_by_attack else "")
        row = next(row for row in rows_of(markdown, name) if row[0] == name)
        averages = axis.accuracy_by_attack[attack]
        assert row[1] == f"{averages['undisposed'].mean:.3f}"
        assert row[5] == f"{ratio.mean:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
    assert markdown.count("(strongest)") == 2  # one an axis
    assert [row for row in rows_of(markdown, "full_large_lr") if row[2].endswith("‡")]
    assert "‡ Diverged with every learning rate, counted as guessing: 1 of full_large_lr on scrubbed." in markdown
    assert len(rows_of(markdown, "lora_published")) == 1  # not run on the novel task
    assert "not run on that model" not in markdown


def test_an_attack_that_was_not_run_on_every_model_is_a_dash():
    extra = records({("scrubbed", 5): [0.9] * 3, ("scrubbed", 20): [0.9] * 3}, attack="full_published")
    markdown = markdown_table(replace(report(), piggyback=(*records(HAND), *extra)))
    assert rows_of(markdown, "full_published") == [["full_published (strongest)", "–", "0.900", "–", "–", "–"]]
    assert "not run on that model at every budget" in markdown


def test_slc_auc_stands_below_the_budgets():
    rows = rows_of(markdown_table(report()), "source subset")
    assert [row[1] for row in rows] == ["5", "20", "SLC-AUC"]
    assert rows[2][2:] == ["0.850 ± 0.020", "0.675 ± 0.020", "0.450 ± 0.020", "0.575 ± 0.020"]


def test_notes_say_how_far_to_trust_the_numbers():
    plain = markdown_table(report())
    assert "[low, high]: 95 % bounds (Fieller) over 3 draws of images." in plain
    assert "successive halving" not in plain and "not measured" not in plain
    halved = report(settings={"audit": {"successive_halving": True}})
    for text in (markdown_table(halved), comparison_markdown([report(), halved])):
        assert "Learning rates were chosen by successive halving" in text


@pytest.mark.parametrize(("scrubbed", "destroyed"), [(0.91, False), (0.89, True)])
def test_a_destroyed_target_is_marked(scrubbed, destroyed):
    found = report(target=(0.95, scrubbed))
    for text in (
        markdown_table(found),
        comparison_markdown([found]),
        printed(*table(found), comparison_table([found])),
    ):
        assert (f"{scrubbed:.3f} †" in text) is destroyed
        assert ("Target destroyed" in text and "no merit" in text) is destroyed


def test_an_unmeasured_target_is_said_everywhere():
    found = report(target=(None, None), source_accuracy={"undisposed": 0.9, "scrubbed": None})
    assert rows_of(markdown_table(found), "target accuracy") == [["target accuracy", "not measured", "not measured"]]
    assert rows_of(markdown_table(found), "source accuracy") == [["source accuracy", "0.900", "not measured"]]
    for text in (markdown_table(found), comparison_markdown([report(), found])):
        assert "Target accuracy not measured" in text and "no merit" in text
    assert rows_of(comparison_markdown([found]), "gradient")[0][1:3] == ["not measured", "not measured"]


def test_membership_is_a_table_of_its_own():
    rows = [
        {"model": "scrubbed", "attack": "loss", "calibration": "cross_validation", "auc": 0.7, "auc_noise": 0.021},
        {"model": "retrained", "attack": "loss", "auc": 0.51, "balanced_accuracy": 0.5, "forget_member_rate": None},
    ]
    text = markdown_table(report(membership=rows))
    assert rows_of(text, "loss") == [
        ["loss (cross validation)", "scrubbed", "0.700", "–", "–", "–", "–"],
        ["loss", "retrained", "0.510", "0.500", "–", "–", "–"],
    ]
    assert "AUC 0.5 ± 0.021" in text and "membership" not in markdown_table(report())


def test_large_tables_fit_100_columns_and_cut_nothing():
    found = large_report(target=(0.893, 0.3), membership=[{"model": "undisposed", "attack": "confidence", "auc": 1.0}])
    text = printed(*table(found), comparison_table([found, large_report("a:very=long,name=of_a_method,with=options")]))
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    folded = "".join(text.split())
    for words in ("head_then_full_published", "cifar10:train[:50%]", "retain_then_full", "a:very=long,name=of_"):
        assert words in folded or words in text
    for ratio in (found.headline, found.over("scratch")):
        assert f"[{ratio.low:.3f}, {ratio.high:.3f}]" in text


def test_a_floor_that_is_not_one_at_every_budget_is_named_at_each():
    values = {**HAND, ("scratch", 20): [0.72] * 3}
    text = markdown_table(report(piggyback=tuple(records(values))))
    assert "The best floor, by validation: retrained at 5, scratch at 20." in text
    assert [row[0] for row in rows_of(text, "leakage over")] == [
        f"leakage over {floor}" for floor in ("the best floor", "scratch", "retrained")
    ]
    assert "The best floor, by validation" not in markdown_table(report())


def test_methods_side_by_side():
    several = [
        report(),
        report(method="negative_ce", scrubbed=(0.82, 0.92), target=(0.95, 0.5)),
        report(method="gradient_collision:chunks=class", scrubbed=(0.35, 0.45)),
    ]
    text = printed(comparison_table(several))
    rows = [line for line in comparison_markdown(several).splitlines() if line.startswith("| ")]
    assert rows[2].count("|") == rows[0].count("|")
    assert rows[3].startswith("| negative_ce † | 0.500 † | 0.160 | 0.820 ± 0.020 |") and "1.050 [" in rows[3]
    assert "| leakage over retrained | leakage over scratch |" in rows[0]
    assert "| 0.870 ± 0.020 | 1.073 [1.073, 1.073] | 1.050 [1.050" in rows[3]  # SLC-AUC, leakage
    alone = replace(report(), piggyback=tuple(r for r in report().piggyback if r.model != "retrained"))
    assert "| leakage over the best floor | leakage over scratch | leakage over retrained |" in comparison_markdown(
        [report(), alone]
    )
    assert rows[5].startswith("| (undisposed) | 0.950 | 0.960 | 0.800 ± 0.020 |")
    assert "-0.636 [" in rows[4] and "-0.125 [" in rows[4]
    assert max(map(len, text.splitlines())) <= 100 and "…" not in text
    assert "0.820" in text
    with pytest.raises(DataError, match="side by side"):
        comparison_table([report(), replace(report(), piggyback=tuple(records(HAND, dataset="other")))])


def test_methods_attacked_in_different_ways_are_said_to_be():
    fewer = replace(report(), piggyback=tuple(r for r in report().piggyback if r.attack == "full"))
    assert "fewer attacks may look better" in comparison_markdown([report(), fewer])
    assert "fewer attacks" not in comparison_markdown([report(), report("other")])


def test_an_undefined_leakage_is_printed_as_such():
    found = report(piggyback=tuple(records({k: v[:1] for k, v in HAND.items()})))
    assert found.headline.mean is None and "| undefined |" in markdown_table(found)
    (row,) = rows_of(markdown_table(found), "leakage over scratch")
    assert row[1:3] == ["undefined", "undefined"], "1 of the undisposed model would be 0/0"


def test_several_tasks_are_a_table_of_every_model_and_methods_stand_side_by_side():
    found, other = tasks_report(settings={"notes": ["left out"]}), tasks_report("other", target=(0.95, 0.5))
    for text in (markdown_table(found), printed(*table(found))):
        assert "left out" in text
    assert "Unlearning random=15% for case" in printed(*table(found))
    rows = rows_of(comparison_markdown([found, other]), "case")
    assert [row[:2] for row in rows] == [
        ["case *", name] for name in ("undisposed", "multitask", "other †", "retrained", "scratch")
    ]
    # Relearned: the mean over both budgets of each seed, then over seeds.
    assert rows[1][2:] == ["0.800", "0.940", "0.880", "0.050", "0.550", "0.650 ± 0.050"]
    assert rows[3][5:] == ["", "", "0.600 ± 0.000"] and rows[4][7:] == ["0.450 ± 0.050"]
    assert rows_of(markdown_table(found), "rotation")[1][2:] == ["-0.200"] * 3
    assert [row[5] for row in rows_of(markdown_table(found), "mean")] == ["0.050", "0.030", "not measured"]
    with pytest.raises(DataError, match="same tasks"):
        comparison_table([found, tasks_report(tasks={"case": found.tasks["case"]})])


def test_the_verdict_on_several_tasks_names_the_worst_task_and_what_was_lost():
    text = tasks_report().verdict
    for words in (
        "scores 0.800 in the task case, where forgetting went worst; before it was 0.950, and images never seen "
        "scored 0.900.",
        "Test scores fell by 0.020 at most, in the task case.",
        "an attacker who relearns random=15% in the task case reaches",
        "a model that was trained again without the forgotten images",
    ):
        assert words in text, text


@pytest.mark.parametrize("width", (50, 60, 80))
def test_a_narrow_terminal_cuts_no_cell(width):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(*table(report()))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    rows = [line.split() for line in text.splitlines()]
    assert sum(word.count("0.020") for row in rows for word in row) == printed(*table(report())).count("0.020")
