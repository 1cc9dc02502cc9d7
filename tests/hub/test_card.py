from dataclasses import replace

import pytest
from audit_toys import large_report, records, report, tasks_report
from huggingface_hub import ModelCard, metadata_load
from markdown_it import MarkdownIt

from hf_dtl.audit.verdict import verdict
from hf_dtl.hub import leakage_card

LABELS = {0: "6", 1: "7", 2: "8", 3: "9"}


def card(found=None, **options):
    return leakage_card(found or report(), **{"model_labels": LABELS, "plots": ["plots/piggyback.png"], **options})


def test_the_card_survives_a_strict_round_trip_and_has_what_the_hub_needs(tmp_path):
    written = card(base_model="org/vit")
    written.save(tmp_path / "README.md")
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.to_dict() == ModelCard(str(written)).data.to_dict() == written.data.to_dict()
    assert (read.data.library_name, read.data.pipeline_tag) == ("transformers", "image-classification")
    assert {"hf_dtl", "unlearning", "disposable-transfer-learning"} <= set(read.data.tags)
    assert read.data.base_model == "org/vit"


def test_the_model_index_keeps_target_and_piggyback_results_apart():
    results = ModelCard(str(card())).data.eval_results
    assert len({r.unique_identifier for r in results}) == len(results) == 2 + 2 * 2
    entries = {(r.dataset_config, r.dataset_split): r for r in results}
    assert (entries["target", "test"].metric_value, entries["source", "test"].metric_value) == (0.94, 0.16)
    assert "proves nothing" in entries["source", "test"].metric_name
    assert entries["source", "test"].metric_args == {"before_disposal": 0.96}
    relearned = entries["source_subset-mnist[0-5]-20-per-class", "piggyback-test"]
    assert relearned.metric_value == pytest.approx(0.75) and relearned.dataset_args == {"images_per_class": 20}
    assert relearned.metric_args == {
        "suite": "custom", "attack": "full", "seeds": [0, 1, 2], "learning_rates": [1e-3] * 3, "deviation": 0.02,
        "undisposed": 0.9, "scratch": 0.5, "retrained": 0.65,
    }  # fmt: skip
    better = {r.dataset_type: "lower is better" in r.metric_name for r in results}
    assert better["source_subset"] and not better["novel_downstream"], "what nobody trained may well be learned"


def test_the_text_has_verdict_tables_plot_limits_and_citation():
    text = str(card())
    for words in (
        verdict(report()), "Attacked by custom, weaker than a practitioner",
        "| target accuracy | 0.950 | 0.940 |", "](plots/piggyback.png)", "reconstruction",
        "5, 20 images a class", "2308.09971", "6, 7, 8, 9", "| disposal.max_steps | `100` |", "## Reproduce",
    ):  # fmt: skip
        assert words in text, words
    assert "{{" not in text and "{%" not in text and "None" not in text
    for words in (
        "0.364 [0.364, 0.364]",
        "0.562 [0.562",
        "| SLC-AUC | 0.850 ± 0.020 |",
        "| full (strongest) |",
        "(Fieller)",
    ):
        assert words in text, words
    assert "successive halving" not in text and "not measured" not in text and "†" not in text


def test_the_mapping_of_metadata_has_the_numbers_of_the_report():
    weights = {"model.safetensors": "a" * 64}
    found = report(weights=weights, settings={"source_dataset": "mnist[0-5]", "audit": {"successive_halving": True}})
    told = ModelCard(str(card(found))).data["unlearning"]
    assert told == {
        "method": "gradient_collision",
        "disposed_of": "mnist[0-5]",
        "leakage": {
            "floor": "retrained",
            "confidence": 0.95,
            "word": "leaks",
            "mean": 0.363636,
            "low": 0.363636,
            "high": 0.363636,
        },
        "target_destroyed": False,
        "suite": "custom",
        "attacks": ["full", "linear_probe"],
        "budgets": [5, 20],
        "attack_seeds": [0, 1, 2],
        "successive_halving": True,
        "seed": 0,
        "library": "hf_dtl",
        "library_version": found.library_version,
        "weights_sha256": weights,
    }
    assert "weights_sha256" not in card().data["unlearning"]


def test_nothing_undefined_is_invented_in_the_metadata():
    values = {("undisposed", 5): [0.9], ("scrubbed", 5): [0.5]}
    found = report(piggyback=tuple(records(values)), target=(None, None), settings={}, chance={})
    told = ModelCard(str(card(found))).data["unlearning"]
    assert not {"disposed_of", "kept", "weights_sha256", "successive_halving"} & told.keys()
    assert told["target_destroyed"] is None and "not known" in told["target_not_measured"]
    reason = "no floor was attacked"
    assert told["leakage"] == {
        "floor": found.floor, "confidence": 0.95, "word": None, "mean": None, "undefined": reason,
    }  # fmt: skip
    relearned = ModelCard(str(card(found))).data.eval_results[-1].metric_args
    assert not {"scratch", "retrained", "deviation"} & relearned.keys() and relearned["undisposed"] == 0.9


@pytest.mark.parametrize("base", ["/home/ann/vit", "./vit", "org/vit/part", "org//vit", "a b/c", "", None, "C:\\vit"])
def test_a_base_model_that_the_hub_cannot_have_is_left_out_with_its_relation(base):
    data = card(base_model=base).data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data
    assert card(base_model="org/vit").data["base_model_relation"] == "finetune"


HOSTILE = "x\n---\n: [`*_|] <script>alert(1)</script> ![](http://a/b) 'yes' # & \"}{{ 1 }}"


def test_texts_of_the_report_break_neither_metadata_nor_page(tmp_path):
    found = report(
        HOSTILE, settings={"source_dataset": HOSTILE, "note|": HOSTILE, "notes": [HOSTILE], "command": "x\n```\n# y"}
    )
    written = card(found, model_labels=[HOSTILE, "<b>"])
    written.save(tmp_path / "README.md")
    data = ModelCard.load(tmp_path / "README.md").data
    assert data.to_dict() == metadata_load(tmp_path / "README.md") == written.data.to_dict()
    assert data["unlearning"]["method"] == found.method
    shown = page(str(written))
    assert "<script" not in shown and "<b>" not in shown and shown.count("<img") == 1 and shown.count("<h1>") == 1
    assert shown.count("<h2>") == 7 and shown.count("alert(1)") > 5 and 'href="' not in shown
    assert "# y" in shown and "<h1>y" not in shown


def page(text):
    return MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)


def test_the_page_shows_every_table_and_picture_and_no_markup():
    found = large_report(settings={"audit": {"attacks": ["full"]}, "source_dataset": "photos[a|b]"})
    shown = page(str(card(found, plots=["plots/piggyback.png", "plots/attacks.png"])))
    assert shown.count("<table>") == 5 and shown.count("<img") == 2 and shown.count("</details>") == 1
    for line in shown.splitlines():
        assert not line.startswith(("|", "<p>|", "#", "<p>#")) and "{{" not in line and "](" not in line, line
    assert "photos[a|b]" in shown
    assert "<code>full</code></td>" in shown


def test_versions_seeds_and_weights_are_said_or_said_to_be_unknown():
    text = str(card(report(machine={"torch": "2.13.0", "device": "x86_64"}, weights={"model.safetensors": "0" * 64})))
    for words in (
        "hf_dtl ", "torch 2.13.0", "transformers not recorded", "python not recorded", "Machine: device x86_64.",
        "- Seed 0; seeds of the attacks 0, 1, 2.", f"SHA-256 of `model.safetensors`: `{'0' * 64}`", "hf-dtl verify",
        "does not say by which command",
    ):  # fmt: skip
        assert words in text, words
    assert "does not name the weights" in str(card())
    assert "```bash\npython x.py --seed 1\n```" in str(card(report(settings={"command": "python x.py --seed 1"})))


def test_no_local_path_gets_into_the_card():
    found = report(settings={"source_dataset": "/srv/secret/photos[a|b]", "output": "/home/ann/run"})
    text = str(card(found, base_model="/home/ann/models/vit", plots=["/home/ann/run/plots/p.png"]))
    assert "/srv" not in text and "/home" not in text and "secret" not in text
    assert "photos[a\\|b]" in text and "](p.png)" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scrubbed": (0.82, 0.92)}, "LEAKS: the source task was not removed: it is relearned at least as well as"),
        ({"scrubbed": (0.78, 0.88)}, "LEAKS: the source task was not removed ("),
        ({"scrubbed": (0.53, 0.68)}, "LEAKS: the source task was not removed ("),  # 0.109
        ({"scrubbed": (0.54, 0.65)}, "NOT SHOWN: neither that the source task leaks nor that it was forgotten ("),
        ({"scrubbed": (0.52, 0.67)}, "NOT SHOWN by a first look: little of the source task came back ("),
        ({"scrubbed": (0.40, 0.50), "target": (0.95, 0.3)}, "The target task was destroyed"),
        ({"scrubbed": (0.40, 0.50), "target": (None, None)}, "Target accuracy was not measured"),
    ],
)  # fmt: skip
def test_the_verdict_is_not_more_optimistic_than_the_report(changes, said):
    assert said in verdict(report(**changes)) and "FORGOTTEN" not in verdict(report(**changes))


def levels(scrubbed, undisposed=(0.9, 0.9, 0.9), floor="retrained"):
    values = {("undisposed", 5): undisposed, ("scrubbed", 5): scrubbed, (floor, 5): (0.1, 0.1, 0.1)}
    return report(piggyback=tuple(records(values)))


@pytest.mark.parametrize(
    ("scrubbed", "word"),
    [
        ([0.1, 0.12, 0.14], "forgotten"),  # 0.025, at most 0.067
        ([0.05, 0.12, 0.25], "not shown"),  # 0.05, but it may be 0.26
        ([0.14, 0.2, 0.29], "not shown"),  # 0.14, but it may be below 0.1
        ([0.2, 0.21, 0.22], "leaks"),  # 0.14, at least 0.116
    ],
)
def test_a_word_is_said_only_as_far_as_the_noise_allows(scrubbed, word):
    found = levels(scrubbed)
    said = {"forgotten": "NOT SHOWN by a first look", "not shown": "NOT SHOWN: neither", "leaks": "LEAKS"}
    assert found.headline.word == word and said[word] in verdict(found)
    for floor in ("scratch", "no_model"):
        without = verdict(levels(scrubbed, floor=floor))
        assert "That is no verdict" in without and not any(other in without for other in ("LEAKS", "SHOWN", "FORG"))
    assert "It was not compared with random weights." in verdict(found)


def test_a_setting_in_which_weights_do_not_matter_shows_nothing():
    text = verdict(levels([0.1, 0.12, 0.14], undisposed=(0.12, 0.12, 0.12)))
    assert "This setting shows nothing about the source task: weights do not matter here" in text
    assert "take a harder task or fewer images" in text and "LEAKS" not in text and "NOT SHOWN" not in text


@pytest.mark.parametrize("target", [(0.95, 0.3), (None, None), (0.95, None)])
@pytest.mark.parametrize("scrubbed", [(0.40, 0.50), (0.60, 0.75)])
def test_nothing_is_praised_where_the_target_is_destroyed_or_not_measured(target, scrubbed):
    text = str(card(report(target=target, scrubbed=scrubbed)))
    assert "FORGOTTEN" not in text
    if target == (0.95, 0.3):
        assert "# Scrubbed image classifier (gradient_collision) †" in text and "| 0.300 † |" in text
        assert verdict(report(target=target, scrubbed=scrubbed)).startswith("The target task was destroyed")
        assert "target accuracy (destroyed)" in text
    else:
        assert "Target accuracy not measured" in text and "not measured |" in text
        assert "target accuracy" not in {r.metric_name for r in ModelCard(text).data.eval_results}


def test_the_card_of_a_large_audit_names_every_attack_note_and_picture():
    found = large_report(settings={"audit": {"successive_halving": True}, "notes": ["Not run: lora."]})
    text = str(card(found, plots=["plots/piggyback.png", "plots/attacks.png", "plots/mine.png"]))
    for words in (
        "![Leakage attack by attack, with bounds](plots/attacks.png)", "![mine](plots/mine.png)",
        "![PL accuracy over budgets: the undisposed and the scrubbed model, and the floors](plots/piggyback.png)",
        "linear_probe, full, head_then_full, lora, linear_probe_published", "1, 5, 20, 100 images a class",
        "- Learning rates were chosen by successive halving", "‡ Diverged with every learning rate",
        "- Noted by who made the report, and checked by nobody: Not run: lora.\n",
    ):  # fmt: skip
        assert words in text, words
    assert "reconstruction" in text and "reconstruction" not in str(card(report("negative_ce")))
    assert "loss (retain)" in str(
        card(report(membership=[{"model": "scrubbed", "attack": "loss", "calibration": "retain", "auc": 0.6}]))
    )


def test_an_undefined_leakage_is_no_praise():
    found = report(piggyback=tuple(records({("scrubbed", 5): [0.2, 0.2], ("scratch", 5): [0.2, 0.2]})))
    assert "undefined, so nothing is shown" in verdict(found) and "undefined" in str(card(found))


def test_the_verdict_gives_numbers_that_a_layman_understands():
    assert verdict(report()).startswith(
        "With 5 images a class, an attacker who relearns the source task reaches an accuracy of 60 ± 2 % from this "
        "model, 80 ± 2 % from the model before disposal, 50 ± 2 % from a model trained on the target task alone and "
        "40 ± 2 % from random weights; guessing gives 17 %. LEAKS: the source task was not removed (leakage over "
        "retrained 0.364 [0.364, 0.364], where 1 leaks all and 0 no more than a model trained on the target task "
        "alone). 5 images a class and these weights are worth as much as about 13 images without them."
    )  # 5 * 4 ** (0.1 / 0.15), between 0.5 at 5 and 0.65 at 20 images


def test_weights_that_are_worth_more_than_any_budget_or_nothing_are_said_to_be():
    assert "worth as much as more than 20 images without them" in verdict(report(scrubbed=(0.7, 0.8)))
    assert "are worth as much as" not in verdict(report(scrubbed=(0.5, 0.65)))


def test_the_verdict_shows_the_budget_that_is_worst_for_the_model():
    high = {5: 0.9, 20: 0.9, 100: 0.95}
    for worst in high:
        values = {("scratch", b): [0.4, 0.41, 0.42] for b in high} | {
            ("undisposed", b): [v] * 3 for b, v in high.items()
        }
        values |= {("scrubbed", b): [0.9 if b == worst else 0.45] * 3 for b in high}
        assert f"With {worst} images a class" in verdict(report(piggyback=tuple(records(values))))
    # the highest accuracy is not where the model helps most; and a budget without the floor does not hide one with it
    values = {("scrubbed", 5): [0.6] * 2, ("scratch", 5): [0.2] * 2, ("scrubbed", 20): [0.8] * 2}
    assert "With 5 images" in verdict(report(piggyback=tuple(records(values | {("scratch", 20): [0.7] * 2}))))
    assert "With 5 images" in verdict(report(piggyback=tuple(records(values))))


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("scratch", "random weights"),
        ("undisposed", "the model before disposal"),
        ("retrained", "a model trained on the target task alone"),
    ],
)
def test_a_missing_reference_is_said(role, name):
    kept = tuple(record for record in report().piggyback if record.model != role)
    text = verdict(report(piggyback=kept))
    assert f"It was not compared with {name}." in text and f"from {name}" not in text
    assert ("undefined, so nothing is shown about removal" in text) == (role == "undisposed")
    assert ("leakage over scratch 0." in text) == (role == "retrained")  # the strongest floor that there is
    assert ("leakage over retrained 0." in text) == (role == "scratch")
    partly = tuple(r for r in report().piggyback if r.model != role or r.budget == 5)
    assert f"It was compared with {name} at some budgets only." in verdict(report(piggyback=partly))


def test_hostile_reports_get_no_praise():
    one_seed = replace(report(), piggyback=tuple(r for r in report(scrubbed=(0.4, 0.5)).piggyback if r.seed == 1))
    text = verdict(one_seed)
    assert "One seed was used" in text and "undefined" in text and "SHOWN" not in text and "±" not in text
    assert "with 5, 20 images a class and\n  1 seed." in str(card(one_seed))
    # without the axis there is nothing to praise, and no number
    novel = tuple(r for r in report().piggyback if r.axis == "novel_downstream")
    text = verdict(report(piggyback=novel))
    assert text.startswith("The leakage is undefined") and "%" not in text and "not compared" not in text
    # a model on which every rate of the strongest attack diverges looks like one that leaks nothing
    broken = tuple(
        replace(r, accuracy=1 / 6, validation_accuracy=1 / 6, diverged=True) if r.model == "scrubbed" else r
        for r in report().piggyback
    )
    text = verdict(report(piggyback=broken))
    assert "6 of the attacks on this model failed" in text and "FORGOTTEN" not in text
    destroyed = report(scrubbed=(0.82, 0.92), target=(0.9, 0.1))
    assert verdict(destroyed).startswith("The target task was destroyed")
    assert "LEAKS: the source task was not removed" in verdict(destroyed)


def test_the_card_of_several_tasks_names_each_and_how_to_load_it():
    found = tasks_report()
    labels = {"case": {0: "upper", 1: "low|er"}, "weight": ["thin", "bold"], "rotation": ["rotation"]}
    text = str(card(found, model_labels=labels, base_model="org/vit"))
    for words in (
        "# Scrubbed image classifier of 3 tasks (multitask)", found.verdict,
        "| case | 2 classes | yes | upper, low\\|er |",
        "| rotation | a number | no | rotation |", "(`random=15%`) for some tasks; for the others they were retained",
        'subfolder="TASK"', "arXiv 2605.19042", "- Tasks whose answer is a number were not attacked.",
        "trained again without the forgotten images",
    ):  # fmt: skip
        assert words in text, words
    assert "{{" not in text and "None" not in text and "adapted from a source task" not in text
    data = ModelCard(text).data
    assert "multi-task" in data.tags and "disposable-transfer-learning" not in data.tags
    told = data["unlearning"]
    assert (told["disposed_of"], told["tasks"], told["unlearning_impact_score"]) == ("random=15%", ["case"], 0.03)
    entries = {(r.dataset_config, r.dataset_split): r for r in data.eval_results}
    assert entries["task-case", "test"].metric_value == 0.88 and entries["task-case", "forget"].metric_value == 0.8
    assert entries["task-case", "test"].metric_type == "accuracy"
    assert entries["task-rotation", "test"].metric_type == "r_squared"
    assert entries["task-case", "forget"].metric_args == {"before_disposal": 0.95}
    assert all(not line.startswith(("|", "<p>|")) for line in page(text).splitlines())
    for wrong in ({"case": ["upper"]}, {**labels, "weight": []}, {**labels, "cat": ["x"]}):
        with pytest.raises(ValueError, match="labels of the published model for each of its tasks case, weight, rot"):
            card(found, model_labels=wrong)
    unattacked = str(card(replace(found, piggyback=()), model_labels=labels))
    assert "No attack was tried" in unattacked and "seeds of the attacks" not in unattacked


def test_a_card_without_labels_is_refused():
    with pytest.raises(ValueError, match="labels"):
        card(model_labels=[])


def test_a_margin_that_forgives_more_than_usual_is_told():
    assert "A drop of target accuracy by up to 0.90 counts as none here." in verdict(report(target_margin=0.9))
    assert "counts as none" not in verdict(report(target_margin=0.05))
