"""The text a user writes for a data set: what it means, what is refused, and what a message says."""

import pytest

from hf_dtl.data.selection import DatasetSpec, listed_positions, select_classes
from hf_dtl.errors import DataError

NAMES = ("T-shirt/top", "Trouser", "Ankle boot", "Bag")


@pytest.mark.parametrize(
    ("text", "name", "split", "revision", "classes"),
    [
        ("mnist", "mnist", None, None, None),
        ("mnist[0,1,2]", "mnist", None, None, ("0", "1", "2")),
        ("fashion_mnist[Ankle boot, Bag]", "fashion_mnist", None, None, ("Ankle boot", "Bag")),
        ("cifar10:train[:50%][cat,dog]", "cifar10", "train[:50%]", None, ("cat", "dog")),
        ("cifar10:train[:50%]", "cifar10", "train[:50%]", None, None),
        ("cifar10:train[10:20][0-5]", "cifar10", "train[10:20]", None, ("0-5",)),
        ("cifar10:test[cat,dog]", "cifar10", "test", None, ("cat", "dog")),
        ("x:train[:10%]+test[90%:][cat,dog]", "x", "train[:10%]+test[90%:]", None, ("cat", "dog")),
        ("user/name@main:train[:-5]", "user/name", "train[:-5]", "main", None),
        ("/data/me@home/x.parquet[a,b]", "/data/me@home/x.parquet", None, None, ("a", "b")),
        ("photos[hue:red,b]", "photos", None, None, ("hue:red", "b")),
    ],
)
def test_parse_reads_each_part_and_str_gives_it_back(text, name, split, revision, classes):
    spec = DatasetSpec.parse(text)
    assert spec == DatasetSpec(name, split, revision, classes)
    assert str(spec) == text.replace(", ", ",")
    assert DatasetSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "[0,1]", "mnist[]", "mnist[0,,1]", "mnist]", "mnist[[0]]", "a[b]c", "mnist:", "x@:train", "x:tr ain"]
    + ["x:train[20%]", "x:train[1:2:3]", "x:train[-:5]", "https://example.org/x"],
)  # fmt: skip
def test_malformed_text_shows_the_grammar(text):
    with pytest.raises(DataError, match=r"NAME\[@REVISION\]\[:SPLIT\]") as error:
        DatasetSpec.parse(text)
    assert "mnist[0,1,2]" in str(error.value)


def test_remedies_in_messages():
    with pytest.raises(DataError, match=r"mnist:train\[:10%\]"):
        DatasetSpec.parse("mnist[:10%]")
    with pytest.raises(DataError, match="position"):
        DatasetSpec("photos", classes=("red [1]", "green"))
    with pytest.raises(DataError, match="'cat' is listed twice"):
        DatasetSpec.parse("x[cat,dog,cat]")


def test_public_name_has_no_folder(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path)
    assert str(DatasetSpec.parse(f"{tmp_path}/deep/x.parquet:train[a,b]").public()) == "x.parquet:train[a,b]"
    assert DatasetSpec("deep/../deep").public().name == "deep"
    assert DatasetSpec(".").public().name == tmp_path.name
    assert DatasetSpec("user/name").public().name == "user/name"


COMMAS = ("cat", "big", "cat, big", "1-3")


def test_classes_by_name_position_and_range_in_the_order_given():
    assert select_classes(None, NAMES, "x") == (0, 1, 2, 3)
    assert select_classes(("Bag", "Ankle boot"), NAMES, "x") == (3, 2)
    assert select_classes(("3", "0-1"), NAMES, "x") == (3, 0, 1)
    assert select_classes(("0-1", "2"), ("2", "0-1", "c"), "x") == (1, 0), "an exact name wins"


@pytest.mark.parametrize(
    ("entry", "names", "found"),
    [
        ("a", ("A", "B", "a"), (2,)),
        ("b", ("A", "B", "a"), (1,)),
        ("cafe\u0301", ("jus", "caf\u00e9"), (1,)),
        ("0-2", ("unknown", "0", "1", "2"), (1, 2, 3)),
        ("0-2", ("-1", "0", "1", "2"), (1, 2, 3)),
        ("-1", ("-1", "0", "1"), (0,)),
        ("7", ("006", "007"), (1,)),
        ("0-3", ("0", "1", "a", "b"), (0, 1, 2, 3)),
        ("crane, bird,dog", ("dog", "crane,bird", "crane"), (1, 0)),
        ("None,null", ("None", "null"), (0, 1)),
        ("7,2", ("2", "007", "7"), (2, 0)),
        ("1-3,2", COMMAS, (3, 2)),
        ("cat,big", ("cat", "dog", "cat, big"), (2,)),
    ],
)
def test_a_name_is_a_name_however_it_is_written(entry, names, found):
    assert tuple(listed_positions(entry, names, "x")) == found


@pytest.mark.parametrize(
    ("entry", "names", "message"),
    [
        ("cat", ("Cat", "CAT"), r"'cat' could be 'Cat' \(0\) or 'CAT' \(1\)"),
        ("crane", ("crane", "crane"), r"'crane' could be 'crane' \(0\) or 'crane' \(1\)"),
        ("3", ("unknown", "0", "1", "2"), "no class '3'. A number is a name there, not a p.*: unknown, 0, 1, 2"),
        ("0-2", ("1", "2", "10"), "no class '0-2'. A number is a name there, not a position. Classes there: 1, 2, 10"),
        ("0-5", ("a", "b"), "no class '0-5'. The positions are 0 to 1."),
        ("cat,big", COMMAS, "'cat,big' could be 'cat, big' or 'cat' and 'big'. Give positions: 2 or 0,1."),
        ("1-3,Cat, big", COMMAS, "'Cat,big' could be 'cat, big' or 'cat' and 'big'."),
        ("a,b,c", ("a, b", "c", "a", "b, c"), "'a,b,c' could be 'a, b' and 'c' or 'a' and 'b, c'."),
        ("1,2", ("1, 2", "x", "y"), "'1,2' could be '1, 2' or 'x' and 'y'."),
        ("crane,bird,dgo", ("crane, bird", "dog"), "no class 'dgo'. Did you mean 'dog'"),
        ("07", ("2", "007", "7"), "'07' could be '007' or '7'. Write it as it is there"),
        ("2-7", ("2", "007", "7"), "'2-7' could be '007' or '7'. Write it as it is there"),
    ],
)
def test_what_could_be_two_classes_is_refused(entry, names, message):
    with pytest.raises(DataError, match=message):
        listed_positions(entry, names, "x")


def test_numbers_mean_names_where_all_names_are_numbers():
    assert select_classes(("1-5",), ("1", "2", "5"), "x") == (0, 1, 2)
    assert select_classes(("5", "1"), ("1", "2", "5"), "x") == (2, 0)
    with pytest.raises(DataError, match="no class '0'"):
        select_classes(("0", "1"), ("1", "2", "5"), "x")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (("Bags", "0"), "no class 'Bags'. Did you mean 'Bag'.*3: Bag"),
        (("4", "0"), "no class '4'"),
        (("0-4",), "no class '0-4'"),
        (("2-1",), "no class '2-1'"),
        (("Bag", "3"), "'Bag' is listed twice"),
        (("0-2", "1"), "'Trouser' is listed twice"),
        (("Bag",), "at least two classes, but this one has 1"),
    ],
)
def test_unusable_classes(wanted, message):
    with pytest.raises(DataError, match=message):
        select_classes(wanted, NAMES, "x")
