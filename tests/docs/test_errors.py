"""The errors that docs/troubleshooting.md explains are said by the library, in these words."""

import re

import pytest
from cli.commands import ended
from documents import text_of

PAGE = text_of("docs/troubleshooting.md")
PHOTOS = ("--forget", "photos[cat,dog]", "--retain", "photos[car,ship]")
WRONG = {
    "the label column cannot be told (several: breed, species)": (
        *("forget", "./classifier", "--retain", "./animals", "--forget", "class=c1"),
    ),
    "has no column of images": ("forget", "--retain", "./texts", "--forget", "class=0"),
    "'photos' has no class 'dgo'. Did you mean 'dog'?": ("forget", "./classifier", "--forget", "photos[cat,dgo]"),
    "a task needs at least two classes, but this one has 1": ("forget", "./classifier", "--forget", "photos[cat]"),
    "'fotos' was not found": ("forget", "./classifier", "--forget", "fotos[cat,dog]"),
    "share the classes cat": (
        *("forget", "./classifier", "--forget", "photos[cat,dog]", "--retain", "photos[cat,ship]"),
    ),
    "A budget of 100 images a class cannot be drawn": ("forget", "./classifier", *PHOTOS, "--budgets", "100"),
    "There is no folder './clasifier'": ("forget", "./clasifier", *PHOTOS),
    "cannot be loaded": ("forget", "nobody/nothing", *PHOTOS),
    "The model's head does not name the classes car of 'photos'": (
        *("forget", "./no_cars", "--retain", "photos", "--forget", "class=cat"),
    ),
    "hf-dtl forget has no option '--retian'. Did you mean --retain?": ("forget", "./classifier", "--retian", "photos"),
    "Unknown method 'slaun'": ("forget", "./classifier", *PHOTOS, "--method", "slaun"),
    "scrub has no option 'alfa'": ("forget", "./classifier", *PHOTOS, "--method", "scrub:alfa=1"),
    "is not part of a published model. Move it out of the folder": ("publish", "./texts", "user/x", "--dry_run"),
    "There is no leakage_report.json in": ("verify", "./classifier"),
}


def test_the_page_explains_them():
    headings = " ".join(re.findall(r"^\*\*(.*)\*\*$", PAGE, flags=re.MULTILINE))
    assert [words for words in WRONG if words not in headings] == []


@pytest.mark.parametrize("words", WRONG)
def test_the_library_says_it(words, reader, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    command = WRONG[words]
    output = [] if command[0] in ("publish", "verify") else ["--output_dir", "outputs/wrong", "--use_cpu"]
    status, _, err = ended(capsys, *command, *output)
    assert status in (1, 2) and words in " ".join(err.split()), err
    assert not (reader / "outputs" / "wrong").exists(), "before any work"
