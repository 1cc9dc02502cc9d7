import pytest
from audit_toys import records, report
from huggingface_hub import ModelCard

from hf_dtl.hub import leakage_card
from hf_dtl.hub.card import verdict

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
    assert len({r.unique_identifier for r in results}) == len(results) == 1 + 2 * 2
    values = {(r.dataset_config, r.dataset_split): r.metric_value for r in results}
    assert values["target", "test"] == 0.94
    assert values["source_subset-mnist[0-5]-20-per-class", "piggyback-test"] == pytest.approx(0.75)


def test_the_text_has_verdict_tables_plot_limits_and_citation():
    text = str(card())
    for words in (
        verdict(report()), "| target accuracy | 0.950 | 0.940 |", "](plots/piggyback.png)", "reconstruction",
        "5 and 20 images a class", "2308.09971", "6, 7, 8, 9", "| disposal.steps | 100 |", "## Reproduce",
    ):  # fmt: skip
        assert words in text, words
    assert "{{" not in text and "{%" not in text and "None" not in text


def test_no_local_path_gets_into_the_card():
    found = report(settings={"source_dataset": "/srv/secret/photos[a|b]", "output": "/home/ann/run"})
    text = str(card(found, base_model="/home/ann/models/vit", plots=["/home/ann/run/plots/p.png"]))
    assert "/srv" not in text and "/home" not in text and "secret" not in text
    assert "photos[a\\|b]" in text and "](p.png)" in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scrubbed": (0.82, 0.92)}, "did not remove the source task: it is relearned at least as well"),
        ({"scrubbed": (0.78, 0.88)}, "did not remove the source task"),
        ({"scrubbed": (0.69, 0.79)}, "did not remove the source task"),  # 0.725, but above 0.75 with its deviation
        ({"scrubbed": (0.60, 0.75)}, "removed a part"),
        ({"scrubbed": (0.40, 0.50)}, "recovered little"),
        ({"scrubbed": (0.40, 0.50), "target": (0.95, 0.3)}, "no merit"),
    ],
)
def test_the_verdict_is_not_more_optimistic_than_the_report(changes, said):
    assert said in verdict(report(**changes))
    assert ("recovered little" in verdict(report(**changes))) == (changes["scrubbed"] == (0.40, 0.50))


def test_an_undefined_leakage_is_no_praise():
    found = report(piggyback=tuple(records({("scrubbed", 5): [0.2, 0.2], ("scratch", 5): [0.2, 0.2]})))
    assert "undefined, so nothing is shown" in verdict(found) and "undefined" in str(card(found))


def test_a_card_without_labels_is_refused():
    with pytest.raises(ValueError, match="labels"):
        card(model_labels=[])
