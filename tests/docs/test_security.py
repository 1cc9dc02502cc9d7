"""The count in docs/security.md is that of the plants."""

import re

import false_claims
import page_plants
import publish_pictures
import publish_plants
import publish_toys
from documents import text_of

PLACES = {
    "publish_toys": publish_toys,
    "publish_pictures": publish_pictures,
    "publish_plants": publish_plants,
    "false_claims": false_claims,
    "page_plants": page_plants,
}


def test_the_numbers_are_the_lengths_of_the_lists():
    rows = re.findall(r"^\|[^|]*\| `(\w+)\.(\w+)` \| (\d+) \| (\d+) \|$", text_of("docs/security.md"), re.MULTILINE)
    told = {(where, name): (int(number), int(refused)) for where, name, number, refused in rows}
    known = {place: len(getattr(PLACES[place[0]], place[1])) for place in told}
    assert len(told) == 14 and {place: number for place, (number, _) in told.items()} == known
    assert {name for (_, name), (number, refused) in told.items() if refused != number} == {"INNOCENT"}
