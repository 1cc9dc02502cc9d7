"""What a user may ask to forget, how it divides the training images, and what is refused."""

from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from hf_dtl.data import ForgetRequest, TaskData, load_task
from hf_dtl.data.duplicates import Copies
from hf_dtl.errors import DataError
from hf_dtl.hub.claims import check_words
from hf_dtl.scenarios.part import Part
from hf_dtl.scenarios.some_tasks import SomeTasks
from hf_dtl.scenarios.spec import ScenarioSpec


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """A parquet file of 40 distinct images: two classes, four people, and a test split."""
    folder = tmp_path_factory.mktemp("people")
    for split, start, count in (("train", 0, 40), ("test", 100, 8)):
        pictures = [np.random.default_rng(start + i).integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(count)]
        table = datasets.Dataset.from_dict(
            {
                "image": [Image.fromarray(picture) for picture in pictures],
                "label": ["cat" if i % 2 else "dog" for i in range(count)],
                "person": [["ann", "bob", "cleo", [None, " "][i // 4 % 2]][i % 4] for i in range(count)],
                "room": [i % 3 for i in range(count)],
            },
            features=datasets.Features(
                {
                    "image": datasets.Image(),
                    "label": datasets.Value("string"),
                    "person": datasets.Value("string"),
                    "room": datasets.ClassLabel(names=["hall", "bath", "attic"]),
                }
            ),
        )
        if split == "test":
            table = table.remove_columns("person")  # a held-out split need not have the column
        table.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def divide(spec, text, **options):
    request = ForgetRequest.parse(text)
    task = load_task(spec, keep_column=request.column, **options)
    return task, request.divide(task)


def task_of(train, test, person=None):
    """Training and test images of two classes, by person."""
    person = person or datasets.Value("string")
    features = datasets.Features({"label": datasets.ClassLabel(names=["x", "y"]), "person": person})
    parts = []
    for people in (train, test, test, []):
        rows = {"label": [i // 2 % 2 for i in range(len(people))], "person": people}
        table = pa.table(rows, schema=features.arrow_schema)
        parts.append(datasets.Dataset(table))
    nothing = np.arange(0)
    copies = Copies(parts[3], nothing, nothing, nothing)
    return TaskData("toy", ("x", "y"), *parts[:3], 0, "", np.arange(len(train)), copies)


def pixels(dataset):
    return {np.asarray(image).tobytes() for image in dataset["image"]}


def test_a_class_by_name_position_or_range():
    task, division = divide("mnist[3,5,7,9]", "class=5,9")
    assert division.classes == (1, 3)
    assert set(division.forget["label"]) == {1, 3} and set(division.retain["label"]) == {0, 2}
    assert len(division.forget) + len(division.retain) == len(task.train)
    _, division = divide("fashion_mnist", "class=Bag")
    assert set(division.forget["label"]) == {8}
    assert divide("fashion_mnist", "class=0-2")[1].classes == (0, 1, 2)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_lists_from_any_editor_name_classes_of_any_name(tmp_path, encoding):
    pictures = [np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(60)]
    names = ["C", "C#", "D, flat"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    content = {"image": [Image.fromarray(p) for p in pictures], "label": [i % 3 for i in range(60)]}
    datasets.Dataset.from_dict(content, features=features).to_parquet(tmp_path / "notes.parquet")
    task = load_task(f"{tmp_path}/notes.parquet")
    own = dict(zip(task.train_rows.tolist(), task.train["label"], strict=True))
    c, d = ([row for row, label in own.items() if label == number] for number in (0, 2))
    lines = ["# rows", "", f"{d[0]},C#", f"{d[1]} , C # a comment, with a comma", f'{c[0]},"D, flat"', f"{c[1]},c#"]
    (tmp_path / "rows.txt").write_bytes("\r\n".join(lines).encode(encoding))
    division = ForgetRequest.parse(f"{tmp_path}/rows.txt").divide(task)
    assert dict(zip(division.rows, division.new_labels, strict=True)) == {d[0]: 1, d[1]: 0, c[0]: 2, c[1]: 1}
    (tmp_path / "rows.txt").write_bytes(f"{d[0]}\r\n{d[1]} # a comment, with a comma\r\n".encode(encoding))
    assert sorted(ForgetRequest.parse(f"{tmp_path}/rows.txt").divide(task).rows) == sorted(d[:2])
    (tmp_path / "rows.txt").write_bytes(f"{d[0]},F#\n".encode(encoding))
    with pytest.raises(DataError, match="no class 'F#'"):
        ForgetRequest.parse(f"{tmp_path}/rows.txt").divide(task)


def test_a_list_longer_than_a_file_name():
    request = ForgetRequest.parse("class=" + ",".join(f"Genus species {i}" for i in range(40)))
    assert request.kind == "class" and len(str(request)) > 255


def test_listed_rows_are_those_of_the_split_that_the_user_knows(people, tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("# of one person\n4\n\n 8 \n12 # blurred\n8\n")
    task, division = divide(people, str(rows))
    wanted = datasets.load_dataset("parquet", data_files=f"{people}/train.parquet", split="train").select([4, 8, 12])
    whole = pixels(task.train)
    taken = [i for i in (4, 8, 12) if pixels(wanted.select([[4, 8, 12].index(i)])) <= whole]
    assert taken == [4, 8, 12], "none of them was held out"
    assert pixels(division.forget) == pixels(wanted) and pixels(division.retain) == whole - pixels(wanted)


def test_listed_rows_may_say_what_to_name_an_image_instead(people, tmp_path):
    rows = tmp_path / "rows.txt"
    task = load_task(people)
    kept = [row for row in (4, 8, 13) if row in task.train_rows]
    rows.write_text("".join(f"{row},{'cat' if row % 2 == 0 else 'dog'}\n" for row in reversed(kept)))
    division = ForgetRequest.parse(str(rows)).divide(task)
    assert list(division.rows) == kept and len(kept) > 1
    own = [task.labels[label] for label in division.forget["label"]]
    new = [task.labels[label] for label in division.new_labels]
    assert own == ["dog" if row % 2 == 0 else "cat" for row in kept] and all(
        a != b for a, b in zip(own, new, strict=True)
    )
    rows.write_text(f"{kept[0]}\n")
    assert ForgetRequest.parse(str(rows)).divide(task).new_labels is None
    assert divide(people, "random=3")[1].new_labels is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,cat\n8\n", "row 8 has no new label, others have. Give all one, or none"),
        ("4,dog\n", "the new label 'dog' of row 4 is the label that it has"),
        ("4,0-1\n", "the new label '0-1' of row 4 is several classes"),
        ("4,bird\n", "has no class 'bird'"),
        ("4,8,12\n", "'4,8,12' looks like row numbers: write one a line, or a row and its new label"),
        ("4,cat\n4,dog\n", "line 2: row 4 is listed before as 'cat', and here as 'dog'. List it once"),
        ("x,cat\n", "line 1: 'x,cat' is not a row number"),
    ],
)
def test_new_labels_that_cannot_be_given(people, tmp_path, text, message):
    rows = tmp_path / "rows.txt"
    rows.write_text(text)
    with pytest.raises(DataError, match=message):
        ForgetRequest.parse(str(rows)).divide(load_task(people))


def test_rows_that_are_no_training_images_are_named(people, tmp_path):
    rows = tmp_path / "rows.txt"
    task = load_task(people)
    held_out = sorted(set(range(40)) - set(task.train_rows.tolist()))
    assert held_out, "a tenth of each class is held out for validation"
    rows.write_text(f"0\n{held_out[0]}\n400\n")
    with pytest.raises(DataError, match=rf"2 of its 3 rows are not training images .*\({held_out[0]}, 400\)"):
        ForgetRequest.parse(str(rows)).divide(task)
    rows.write_text("0\n-3\n")
    with pytest.raises(DataError, match="line 2: '-3' is not a row number"):
        ForgetRequest.parse(str(rows)).divide(task)


@pytest.mark.parametrize(("text", "column", "value"), [("person=ann", "person", "ann"), ("room=attic", "room", 2)])
def test_a_value_of_a_column(people, text, column, value):
    task, division = divide(people, text)
    assert set(division.forget[column]) == {value} and value not in division.retain[column]
    assert len(division.forget) + len(division.retain) == len(task.train) and division.classes == ()


@pytest.mark.parametrize(("column", "value"), [("person", "ann"), ("room", "attic"), ("age", "3.0")])
def test_images_that_a_column_says_nothing_of_are_counted(people, column, value, tmp_path, caplog):
    table = datasets.load_dataset("parquet", data_files=f"{people}/train.parquet", split="train")
    ages = [3.0 if i % 4 else (None, float("nan"))[i // 4 % 2] for i in range(40)]
    table.add_column("age", ages).to_parquet(tmp_path / "train.parquet")
    part = Part(ScenarioSpec(kind="part", forget=f"{column}={value}", retain=str(tmp_path / "train.parquet")), 1)
    empty = sum(v in (None, " ") or v != v for v in part.division.retain[column])
    assert part.division.without_value == empty and (empty > 5) == (column != "room")
    told = f"--forget {column}={value}: {empty} of {len(part.division.retain)} retained images have no value in that c"
    assert (told in caplog.text) == (column != "room") == bool(part._notes())
    for note in part.measure({}, torch.device("cpu"), ()).notes:
        check_words("A note", note)


def test_held_out_images_that_a_column_says_nothing_of_are_told(people):
    part = Part(ScenarioSpec(kind="part", forget="person=ann", retain=people), 1)
    told = "the test images say nothing of it, and may belong to what is asked for. Fill the column in there too."
    assert [note for note in part._notes() if "say nothing" in note] == [f"--forget person=ann: {told}"]
    check_words("A note", told)
    assert not any("say nothing" in note for note in Part(replace(part.spec, forget="room=attic"), 1)._notes())


def test_of_several_tasks_a_person_is_spelt_alike_in_all_splits(tmp_path):
    def rows(count, start, people):
        pictures = [np.random.default_rng(start + i).integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(count)]
        columns = {"shape": ["disc", "bar"] * (count // 2), "colour": ["red", "red", "blue", "blue"] * (count // 4)}
        images = [Image.fromarray(picture) for picture in pictures]
        return datasets.Dataset.from_dict({"image": images, **columns, "person": people * (count // len(people))})

    splits = {"train": rows(40, 0, ["Ann", "ann", "bob", "bob"]), "test": rows(8, 100, ["ann", "bob"])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path)
    spec = ScenarioSpec(kind="tasks", forget="person=Ann", retain=str(tmp_path), task_columns="shape,colour")
    scenario = SomeTasks(spec, 1)
    assert len(scenario.data.test) == 8, "ann is another person than Ann"
    assert len(SomeTasks(replace(spec, forget="person=ann"), 1).data.test) == 4


def test_classes_by_number_are_named(people, caplog):
    for request in ("class=cat", "class=0"):
        assert "that is" not in caplog.text
        with pytest.raises(DataError, match="every class but one"):  # of two
            divide(people, request)
    assert "--forget class=0: by the order of the data's classes that is cat." in caplog.text


@pytest.mark.parametrize(("value", "other"), [("ann", "Bob; Ann"), ("ann", "ann & bob"), ("7", "07"), ("7", "7.0")])
def test_cells_that_may_mean_a_value_too_are_told(caplog, value, other):
    found = ForgetRequest.parse(f"person={value}").divide(task_of([value, other, "hannah", "17"] * 10, ["bob"] * 4))
    assert set(found.forget["person"]) == {value}
    assert f"images of {other!r} are not forgotten. List rows, or write them alike" in caplog.text


def test_a_copy_in_a_row_of_no_class_says_whose_picture_it_is(tmp_path, caplog):
    pixels = [np.random.default_rng(i % 40).integers(0, 256, (4, 4, 3), dtype=np.uint8) for i in range(48)]
    rows = {"image": [Image.fromarray(one) for one in pixels], "person": ["bob"] * 30 + ["ann"] * 18}
    rows["label"] = ["cat", "dog"] * 20 + [None, "owl"] * 4  # pictures 0 to 7 again: ann's, of no class or another
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "person": text, "label": text})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "own.parquet")
    task = load_task(f"{tmp_path}/own.parquet[cat,dog]", keep_column="person")
    found = ForgetRequest.parse("person=ann").divide(task)
    assert "images that stand under another value are copies of such; they are forgotten too" in caplog.text
    assert {*range(8)} & {*task.train_rows.tolist()} <= {*found.rows} and min(found.rows) < 8


def test_a_person_who_only_judges_is_no_misspelling():
    task = task_of(["bob", "eve"] * 10, ["ann"] * 4)
    with pytest.raises(DataError, match="every image of .* with that value judges"):
        ForgetRequest.parse("person=ann").divide(task)


def test_other_spellings_of_a_value_are_told(caplog):
    task = task_of([*["ann", "Ann", "bob", "an\u200bn\u00a0"] * 10], ["Ann"] * 4)
    request = ForgetRequest.parse("person=ann")
    assert set(request.divide(task).forget["person"]) == {"ann"} and len(request.divide(task).forget) == 10
    assert r"images of 'Ann' and 'an\u200bn\xa0' are not forgotten" in caplog.text
    assert not request.has_value(task.test, task).any(), "who counts as different is different in every split"
    assert ForgetRequest.parse("person=Ann").has_value(task.test, task).all()
    alone = task_of(["bob", "Ann"] * 10, ["Ann", "ANN"] * 2)
    assert ForgetRequest.parse("person=Ann").has_value(alone.test, alone).tolist() == [True, False] * 2


def test_a_column_of_classes_names_nobody_by_minus_one_and_nothing_else(tmp_path):
    person = datasets.ClassLabel(names=["ann", "bob"])
    task = task_of([0, 1, -1, None] * 10, [0, 1], person)
    division = ForgetRequest.parse("person=ann").divide(task)
    assert len(division.forget) == 10 and division.without_value == 20
    for wrong in (2, -2):
        told = f"5 of 40 rows of the column 'person' hold {wrong}, but its 2 names are numbered from 0"
        with pytest.raises(DataError, match=told):
            ForgetRequest.parse("person=ann").divide(task_of([0, 1] * 10 + [0, 0, 0, wrong] * 5, [0, 1], person))


def test_a_random_part_depends_on_the_seed_alone():
    task = load_task("mnist[0,1,2]", images_per_class=50)
    tenth = ForgetRequest.parse("random=10%")
    first, again, other = (tenth.divide(task, seed) for seed in (0, 0, 1))
    assert len(first.forget) == 15 and pixels(first.forget) == pixels(again.forget) != pixels(other.forget)
    assert len(ForgetRequest.parse("random=7").divide(task).forget) == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rows.txt", "there is no such file"),
        ("class=", "lacks a value"),
        ("=3", "lacks a name"),
        ("class=12", "has no class '12'"),
        ("class=0,1", "covers every class but one"),
        ("class=0-2", "covers all training images"),
        ("random=0", "Nothing to forget"),
        ("random=100%", "covers all training images"),
        ("random=150%", "must be a share such as 10%"),
        ("random=many", "must be a share such as 10%"),
        ("random=nan%", "must be a share such as 10%"),
        ("person=ann", "has no column 'person'"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        divide("mnist[0,1,2]", text, images_per_class=5)


def test_an_unknown_value_is_answered_with_those_there_are(people):
    with pytest.raises(DataError, match="Did you mean 'cleo'.*Values there: ann, bob, cleo"):
        divide(people, "person=clio")
    with pytest.raises(DataError, match="A class is asked for by class=NAME"):
        divide(people, "label=cat")


def test_a_published_request_names_no_folder(tmp_path):
    (tmp_path / "rows.txt").write_text("1\n")
    assert str(ForgetRequest.parse(str(tmp_path / "rows.txt"))) == "rows.txt"
    assert [str(ForgetRequest.parse(text)) for text in ("class=1, 2", "person = ann")] == ["class=1, 2", "person=ann"]


def test_images_of_a_folder_are_counted_as_the_documentation_says(tmp_path):
    files = [f"{split}/{name}/{i}.png" for split in ("test", "train") for name in ("dog", "cat") for i in (2, 10, 1)]
    for number, file in enumerate(files):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / file)
    numbers = {f"train/{name}": row for row, name in enumerate(
        ["cat/1.png", "cat/10.png", "cat/2.png", "dog/1.png", "dog/10.png", "dog/2.png"]
    )}  # fmt: skip

    def rows():
        task = load_task(str(tmp_path))
        shades = [image.getpixel((0, 0))[0] for image in task.train["image"]]
        return {files[shade]: row for shade, row in zip(shades, task.train_rows.tolist(), strict=True)}

    own = rows()
    assert own == {file: numbers[file] for file in own} and len(own) == 4, "a third is held out for validation"
    (tmp_path / "metadata.csv").write_text("file_name,person\ntrain/dog/2.png,ann\n")
    after = {file: (number + 1) % 6 for file, number in numbers.items()}
    own = rows()
    assert own == {file: after[file] for file in own} and len(own) == 4


def test_a_column_of_lists_is_no_column_of_values(tmp_path):
    people = [["ann"], ["ann", "bob"]] * 20
    rows = {"image": [Image.new("L", (8, 8), 5 * i) for i in range(40)], "label": [i % 2 for i in range(40)]}
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"]),
         "people": datasets.List(datasets.Value("string"))}
    )  # fmt: skip
    datasets.Dataset.from_dict(rows | {"people": people}, features=features).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="'people' holds no single values .List.. Write a column that says yes or no"):
        ForgetRequest.parse("people=['ann']").divide(load_task(str(tmp_path / "saved"), keep_column="people"))
