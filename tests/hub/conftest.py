"""Publishing draws every report anew; here, those that look alike once."""

import publish_toys
import pytest


@pytest.fixture(scope="module", autouse=True)
def drawn_once():
    with pytest.MonkeyPatch.context() as patch:
        publish_toys.draw_once(patch.setattr)
        yield
