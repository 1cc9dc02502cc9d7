"""The Space in a real browser: every tab, an attack to its end, another one stopped, at both widths and themes."""

from pathlib import Path

import pytest
from PIL import Image

api = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra `test`")
CHROMIUM = Path("/usr/bin/chromium")
if not CHROMIUM.exists():
    pytest.skip(f"there is no browser at {CHROMIUM}; Debian's package chromium brings it", allow_module_level=True)

pytestmark = pytest.mark.browser
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
TABS = ("Probe", "Relearn it", "Leakage card", "How it works")
CELLS = ".card table >> nth=0 >> tbody td"
WAIT = 60_000
"""Milliseconds for what the server does, on a machine with other work."""


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


def visit(browser, space, width, height, scheme):
    """A page with the example pair opened, and what went wrong on it."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, faults = context.new_page(), []
    page.set_default_timeout(WAIT)
    page.on("console", lambda said: faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    own = (space.url, "data:", "blob:")
    page.on("request", lambda sent: None if sent.url.startswith(own) else faults.append(f"request to {sent.url}"))
    page.goto(space.url)
    page.wait_for_selector(".columns h3")
    return page, faults


def tab(page, name):
    page.get_by_role("tab", name=name).click()


def test_a_visit(browser, space, tmp_path):
    page, faults = visit(browser, space, 1280, 900, "light")

    # Probe: an own image, then an example
    digit = tmp_path / "digit.png"
    image = Image.new("L", (28, 28))
    image.paste(255, (12, 4, 16, 24))
    image.save(digit)
    before = page.locator(".columns").inner_text()
    page.locator("input[type=file]").first.set_input_files(digit)
    page.wait_for_function("before => document.querySelector('.columns').innerText !== before", arg=before)
    own = page.locator(".columns").inner_text()
    page.locator(".examples button").nth(3).click()
    page.wait_for_function("before => document.querySelector('.columns').innerText !== before", arg=own)
    assert page.locator(".columns").inner_text().count("(source)") >= 2

    # Relearn: an attack is stopped, the next one goes to its end
    tab(page, "Relearn it")
    assert "Nothing is running" in page.locator(".remark:visible").inner_text()
    page.get_by_label("ridge_affine_8", exact=True).check()
    page.get_by_label("20", exact=True).check()
    page.get_by_role("button", name="Start attack").click()
    page.wait_for_selector("svg.curve polyline.live")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_function("document.body.innerText.includes('Stopped after')")
    points = page.locator("svg.curve circle.live").count()
    page.wait_for_timeout(1500)
    assert page.locator("svg.curve circle.live").count() == points >= 1 and not page.locator(".status.done").count()

    page.get_by_label("ridge", exact=True).check()
    assert "images a class" in page.locator("svg.curve").text_content()
    page.get_by_role("button", name="Start attack").click()
    done = page.locator(".status.done")
    done.wait_for()
    assert "You relearned it to" in done.inner_text() and "The report says" in done.inner_text()
    assert page.locator("svg.curve circle.live").count() >= 8
    assert "Accuracy" in page.locator("svg.curve").get_attribute("aria-label")

    # Leakage card
    tab(page, "Leakage card")
    page.wait_for_selector(".card table")
    assert page.locator(".card table").count() == 3
    assert page.evaluate("[...document.querySelectorAll('.card img')].every(i => i.naturalWidth > 300 && i.alt)")
    assert not faults, faults
    page.context.close()


def test_an_error_stands_at_its_field_and_nothing_else_changes(browser, space, tmp_path):
    page, faults = visit(browser, space, 390, 844, "light")
    verdict, seen = page.locator(".verdict").inner_text(), page.locator(".columns").inner_text()

    def wrong(below, above, says):
        """The one error stands between two fields; no toast and no pill tells of it, and what was seen stays."""
        error = page.locator(".wrong")
        page.wait_for_function("says => document.querySelector('.wrong')?.innerText.includes(says)", arg=says)
        tops = [place.bounding_box()["y"] for place in (below, error, above)]
        assert tops == sorted(tops) and error.count() == 1
        assert page.locator(".toast-body, .error:visible").count() == 0
        assert page.locator(".verdict").inner_text() == verdict and page.locator(".columns").inner_text() == seen

    published, undisposed = page.get_by_label("Published model"), page.get_by_label("Undisposed model (optional)")
    published.fill("no id")
    published.press("Enter")
    wrong(published, undisposed, "cannot be the published model")
    # what was opened last can still be probed
    page.locator(".examples button").nth(3).click()
    page.wait_for_function("seen => document.querySelector('.columns').innerText !== seen", arg=seen)
    space.publish("ann/alone", "scrubbed")
    published.fill("ann/alone")
    published.press("Enter")
    page.wait_for_function("document.querySelector('.columns').innerText.includes('not published')")
    seen = page.locator(".columns").inner_text()
    undisposed.fill("no id either")
    undisposed.press("Enter")
    wrong(undisposed, page.get_by_role("button", name="Open"), "cannot be the undisposed model")

    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    undisposed.fill("")
    published.fill("example")
    published.press("Enter")
    page.wait_for_function("!document.querySelector('.wrong')")
    page.wait_for_function("!document.querySelector('.columns').innerText.includes('not published')")
    seen = page.locator(".columns").inner_text()
    page.locator("input[type=file]").first.set_input_files(broken)
    wrong(page.locator(".image-container").first, page.locator(".examples").first, "no image that can be read")

    page.locator(".examples button").nth(3).click()
    page.wait_for_function("!document.querySelector('.wrong')")
    tab(page, "Relearn it")
    page.get_by_role("spinbutton", name="Seed").fill("0.5")
    start = page.get_by_role("button", name="Start attack")
    start.click()
    seen = page.locator(".columns").inner_text()
    wrong(page.get_by_role("spinbutton", name="Seed"), start, "must be a whole number in 0..9999")
    assert not faults, faults
    page.context.close()


@pytest.mark.parametrize("width, height, scheme", ((1280, 900, "dark"), (390, 844, "light"), (390, 844, "dark")))
def test_every_tab_fits_and_can_be_read(browser, space, tmp_path, width, height, scheme):
    page, faults = visit(browser, space, width, height, scheme)
    for name in TABS:
        tab(page, name)
        page.wait_for_timeout(500)
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert page.evaluate(CUT_OFF) == [] and page.evaluate(SIDEWAYS) == [], name
        assert page.evaluate(TOO_FAINT) == [], name
        if name == "Leakage card" and width == 390:
            ahead, behind = (page.locator(f"{CELLS} >> nth={i}").bounding_box() for i in (1, 0))
            assert page.locator(CELLS).nth(1).get_attribute("data-column") == "scrubbed"
            assert (ahead["y"], ahead["x"]) < (behind["y"], behind["x"]), "the scrubbed model comes first"
    dark = page.evaluate("document.body.classList.contains('dark')")
    assert dark == (scheme == "dark") and not faults, faults
    page.context.close()


def test_by_keyboard_and_for_screen_readers(browser, space):
    page, faults = visit(browser, space, 1280, 900, "light")
    tab_of_attack = page.get_by_role("tab", name="Relearn it")
    for _ in range(40):
        page.keyboard.press("Tab")
        if tab_of_attack.evaluate("tab => tab === document.activeElement"):
            break
    else:
        pytest.fail("the tab cannot be reached with the Tab key")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Start attack").wait_for()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    for name in TABS:
        tab(page, name)
        page.wait_for_timeout(300)
        assert page.evaluate(WITHOUT_NAME) == [], name
    assert not faults, faults
    page.context.close()


# Boxes that would have to be scrolled sideways to see all of them.
SIDEWAYS = """() => [...document.querySelectorAll('*')].filter(e => e.checkVisibility()
  && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1)
  .map(e => e.outerHTML.slice(0, 120))"""

# Texts and pictures of this page that lie beyond the window.
CUT_OFF = """() => [...document.querySelectorAll('h1, h3, p, dt, dd, li, th, td, img, button, svg.curve')]
 .filter(e => { const box = e.getBoundingClientRect();
  return box.width && e.checkVisibility({visibilityProperty: true, opacityProperty: true})
    && (box.right > innerWidth + 1 || box.left < -1) && !e.closest('.visually-hidden');
}).map(e => e.outerHTML.slice(0, 120))"""

# Texts of this page's own HTML whose contrast with the ground behind is below 4.5, as WCAG AA asks.
TOO_FAINT = """() => {
  const rgb = colour => (colour.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > .5) return c; }
    return [255, 255, 255]; };
  const own = ['.intro', '.headline', '.columns', '.card', '.how', '.status', 'svg.curve'].map(name => name + ' *');
  return [...document.querySelectorAll(own)]
    .filter(e => e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
    .filter(e => { const style = getComputedStyle(e), ink = e.closest('svg') ? style.fill : style.color;
      const [a, b] = [light(rgb(ink)), light(ground(e))].sort((x, y) => y - x); return (a + .05) / (b + .05) < 4.5; })
    .map(e => e.outerHTML.slice(0, 120));
}"""

# Buttons, fields and pictures that a screen reader could not name.
WITHOUT_NAME = """() => [...document.querySelectorAll('button, input:not([type=file]), img, svg[role=img]')]
  .filter(e => e.checkVisibility()).filter(e => !(e.innerText || e.ariaLabel || e.alt || e.title
    || e.getAttribute('aria-labelledby') || e.closest('label') || (e.labels && e.labels.length)))
  .map(e => e.outerHTML.slice(0, 160))"""
