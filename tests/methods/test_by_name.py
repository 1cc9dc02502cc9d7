import pytest

from hf_dtl.errors import ConfigError
from hf_dtl.methods.by_name import parse_method, parse_methods
from hf_dtl.methods.registry import method_names


def test_options_reach_the_config_with_their_types(tmp_path):
    choice = parse_method("gradient_collision:chunking=random:normalize=true:forget_weight=3:learning_rate=1e-3")
    config = choice.config(output_dir=str(tmp_path), use_cpu=True, learning_rate=0.5)
    assert (config.chunking, config.normalize, config.forget_weight) == ("random", True, 3.0)
    assert config.learning_rate == 1e-3, "the method's own option wins"
    assert choice.folder == "gradient_collision-chunking_random-normalize_true-forget_weight_3-learning_rate_1e-3"


def test_the_folder_of_a_choice_never_leaves_its_parent():
    assert parse_method("negative_ce:run_name=../../x").folder == "negative_ce-run_name_.._.._x"


def test_every_method_builds_and_lists_are_read_in_order(tmp_path):
    choices = parse_methods(", ".join(method_names()))
    assert [c.text for c in choices] == method_names()
    for choice in choices:
        config = choice.config(output_dir=str(tmp_path), use_cpu=True)
        assert isinstance(config, choice.config_class)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gradient_colision", "Unknown method 'gradient_colision'; the methods are: .*gradient_collision"),
        ("negative_ce:capp=3", "no option 'capp'.*one of: .*cap"),
        ("negative_ce:cap", "no option 'cap' in"),
        ("negative_ce:cap=high", "negative_ce:cap=high must be a float"),
        ("gradient_collision:normalize=1", "must be a bool"),
        ("retrain:forget_weight=2", "retrain has no option 'forget_weight'"),
        ("negative_ce:output_dir=elsewhere", "output_dir cannot be set"),
        ("", "must name one or several"),
        ("negative_ce,negative_ce", "different methods"),
    ],
)
def test_bad_names(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_methods(text)
