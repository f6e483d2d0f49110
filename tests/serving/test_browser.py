"""The page in a real browser: headless Chromium, if there is one.

Needs `pip install 'jaxqa[browser]'` and a Chromium: Debian's, or the one that
`JAXQA_CHROMIUM` names. With JAXQA_SCREENSHOTS=DIR the states are also saved to look at.
"""

import csv
import io
import os
import re
import shutil

import numpy as np
import pytest
from local_server import png, running
from PIL import Image
from writing_stand_in import REASONS, WritingModel

WHERE = "`pip install 'jaxqa[browser]'`"
playwright = pytest.importorskip("playwright.sync_api", reason=f"the page's tests need {WHERE}")
CHROMIUM = os.environ.get("JAXQA_CHROMIUM") or shutil.which("chromium")
SCREENSHOTS = os.environ.get("JAXQA_SCREENSHOTS")
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 100

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium: install Debian's `chromium`, or set JAXQA_CHROMIUM"
    ),
]


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server():
    with running(model=WritingModel(), ui=True) as url:
        yield url


@pytest.fixture
def visit(chromium):
    """Opens the page; at the end, nothing may have gone wrong or been asked of another server."""
    contexts, problems = [], []

    def elsewhere(url, origin):
        if not url.startswith((origin, "blob:")):
            problems.append(url)

    def visit(url, **options):
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(60_000)  # a busy machine is slow, not wrong
        contexts.append(context)
        page, origin = context.new_page(), url.partition("#")[0]
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                request.url.startswith((origin, "blob:")) or problems.append(request.url)
            ),
        )
        page.on("console", lambda message: "Security" in message.text and problems.append(message))
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert not problems


def picture(level, name=None):
    return {"name": name or f"{level}.png", "mimeType": "image/png", "buffer": png(level)}


def add(page, files, *, done=True):
    page.set_input_files("#files", files)
    page.wait_for_selector("#rows tr")
    if done:
        page.wait_for_selector("#progress[hidden]", state="attached")


def names(page):
    return page.locator("#rows th button").all_inner_texts()


def ask_for(page, value):
    page.check(f"#question input[value={value}]", force=True)


def axe(page):
    """What axe-core finds wrong, by WCAG 2.2 AA and best practice."""
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe
    found = Axe().run(page).response["violations"]
    return [(each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found]


def test_a_score_with_distribution_and_reasons(visit, server):
    page = visit(server)
    add(page, [picture(102)])
    assert page.inner_text("#reading strong") == "2.60"
    assert "quality, 1 to 5" in page.inner_text("#reading").lower()
    assert page.inner_text(".words").split() == REASONS.split()
    assert page.locator(".words span.e5").count() > 2 and page.locator(".scale .bar").count() == 0
    ask_for(page, "expected")
    page.wait_for_selector(".scale .bar")
    words = page.locator(".scale").get_attribute("aria-label")
    assert re.match(r"2\.\d\d on a scale of 1 to 5\. Nine tenths", words)
    page.click("text=Distribution as a table")
    shares = page.locator(".scale-figure td").all_inner_texts()
    total = sum(float(share.replace("under", "").removesuffix("%")) for share in shares)
    assert total == pytest.approx(100, abs=1.5)
    ask_for(page, "mean")
    page.wait_for_selector(".scale .dot")
    assert page.locator(".scale .dot").count() == 5


def test_a_batch_is_sorted_and_saved(visit, server):
    page = visit(server)
    levels = [200, 30, 120, 0, 255, 77, 180, 90, 60, 140]
    files = [picture(level) for level in levels]
    files.append({"name": "IMG_1.HEIC", "mimeType": "image/heic", "buffer": HEIC})
    files.append({"name": "a,b.pdf", "mimeType": "application/pdf", "buffer": b"%PDF-1.7"})
    files.append({"name": "cut.png", "mimeType": "image/png", "buffer": png(5, (90, 90))[:-40]})
    add(page, files)
    assert page.inner_text("#progress-text") == "9 of 13 images scored, 4 without a score."
    page.click("[data-sort=score]")
    best = [f"{level}.png" for level in sorted(levels, reverse=True) if level]
    assert names(page)[:9] == best
    page.click("[data-sort=score]")
    assert names(page)[:9] == best[::-1]
    page.click("[data-sort=name]")
    assert names(page)[:3] == ["0.png", "30.png", "60.png"]  # as numbers, not as letters
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Name")
    errors = dict(zip(names(page), page.locator("#rows .error").all_inner_texts(), strict=True))
    assert errors["IMG_1.HEIC"] == "HEIC is not read here. Export the photo as JPEG or PNG."
    assert errors["a,b.pdf"].startswith("This is no image that is read here. Use JPEG")
    assert errors["0.png"] == "The answer has no number in <answer>."
    assert errors["cut.png"].startswith("Cannot decode the image")
    with page.expect_download() as download:
        page.click("#csv")
    with open(download.value.path(), newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert len(rows) == 13 and float(rows["255.png"]["score"]) == 5.0
    assert rows["a,b.pdf"]["error"] and rows["30.png"]["rationale"] == REASONS


def test_tasks_modes_and_the_text(visit, server):
    page = visit(server)
    ask_for(page, "aesthetics")
    assert page.locator("#modes input").count() == 3  # it has no mode fast
    ask_for(page, "alignment")
    add(page, [picture(255)], done=False)
    # The page waits a moment for further choices before it asks the new question.
    page.wait_for_selector("#progress-text:has-text('write the text')")
    page.fill("#prompt", "a cat")
    page.press("#prompt", "Enter")
    page.wait_for_selector("#reading strong")
    assert page.inner_text("#reading strong") == "5.00"


def test_two_images_in_both_orders(visit, server):
    page = visit(f"{server}/#compare")
    page.set_input_files("#slot-a", picture(255))
    page.set_input_files("#slot-b", picture(120))
    page.wait_for_selector("text=A is better")
    assert page.locator(".pair dd").all_inner_texts() == ["5.00", "2.88"]
    page.set_input_files("#slot-reference", picture(200))
    page.wait_for_selector("text=Both orders agree.")
    assert page.locator(".verdict td").all_inner_texts() == ["100 % for A", "0 % for B"] * 2
    page.set_input_files("#slot-a", picture(20))
    page.set_input_files("#slot-b", picture(30))
    page.wait_for_selector("text=The orders disagree")
    assert page.inner_text(".headline") == "No difference"


def test_the_keyboard_alone(visit, server):
    page = visit(server)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    stops = []
    for _ in range(5):
        page.keyboard.press("Tab")
        stops.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
    assert stops == ["to-score", "to-compare", "quality", "think", "files"]
    add(page, [picture(level) for level in (10, 20, 30)])
    page.locator("#rows button").first.focus()
    for key, wanted in (("ArrowDown", "20"), ("End", "30"), ("ArrowUp", "20"), ("Home", "10")):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.textContent") == f"{wanted}.png"
        assert page.inner_text("#reading-name") == f"{wanted}.png"
    assert page.locator("#rows button[tabindex='0']").count() == 1
    page.focus(".words")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert page.inner_text(".readout") == "“is”: 0.02 nats"
    ring = page.evaluate("getComputedStyle(document.querySelector('.words')).outlineWidth")
    assert ring == "3px"
    page.focus("input[value=think]")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => document.querySelector('#reading').innerText.includes('without')")


def test_a_key_is_asked_for_and_forgotten(visit):
    with running(model=WritingModel(), key="right", ui=True) as url:
        page = visit(url)
        page.fill("#key", "wrong")
        page.press("#key", "Enter")
        page.wait_for_selector("text=The server does not know this key.")
        page.fill("#key", "right")
        page.press("#key", "Enter")
        page.wait_for_selector("#question:not([hidden])")
        add(page, [picture(255)])
        assert page.inner_text("#reading strong") == "5.00"
        assert page.evaluate("() => [localStorage.length, sessionStorage.length]") == [0, 0]
        page.reload()
        page.wait_for_selector("#key-form:not([hidden])")


def test_a_busy_server_is_waited_for(visit, server):
    """At most three requests at a time; a 429 is repeated after the time that it names."""
    page = visit(server)
    inside, most, refused = set(), 0, []

    def answer(route):
        nonlocal most
        if not refused:
            refused.append(True)
            body = '{"error": {"message": "the queue is full"}}'
            route.fulfill(status=429, headers={"Retry-After": "1"}, body=body)
            return
        inside.add(route.request)
        most = max(most, len(inside))
        route.continue_()

    page.route("**/v1/score", answer)
    page.on("requestfinished", lambda request: inside.discard(request))
    page.set_input_files("#files", [picture(9 + n, f"{n}.png") for n in range(60)])
    page.wait_for_selector("text=The server is busy. Next try in 1 second.")
    page.wait_for_selector("#progress[hidden]", state="attached")
    assert page.inner_text("#progress-text") == "60 of 60 images scored."
    assert 1 <= most <= 3 and page.inner_text("#problem") == ""


def test_stopping_and_trying_again(visit):
    with running(model=WritingModel(seconds=0.3), ui=True) as url:
        page = visit(url)
        add(page, [picture(100, f"{n}.png") for n in range(40)], done=False)
        page.click("#stop")
        page.wait_for_selector("#retry:not([hidden])")
        assert "Stopped." in page.locator("#rows .error").all_inner_texts()
        page.click("#retry")
        page.wait_for_selector("text=40 of 40 images scored.")


def test_files_are_dropped_and_pasted(visit, server):
    page = visit(server)
    page.wait_for_selector("#question:not([hidden])")
    give = """(kind) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array([71, 73, 70, 56])], "broken.gif"));
      const target = document.querySelector("#intake");
      const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: data, bubbles: true });
      target.dispatchEvent(event);
    }"""
    for number, kind in enumerate(("drop", "paste")):
        page.evaluate(give, kind)
        page.wait_for_selector(f"text=0 of {number + 1} image")
    page.wait_for_selector("#rows .error:has-text('No image found')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("size", "width"), [("wide", 1280), ("phone", 390)])
def test_states_are_accessible(visit, server, scheme, size, width):
    """axe-core finds nothing, and nothing is wider than the screen."""
    page = visit(
        server,
        viewport={"width": width, "height": 844},
        color_scheme=scheme,
        reduced_motion="reduce",
    )
    page.wait_for_selector("#question:not([hidden])")
    seen = []

    def check(state):
        assert not axe(page), state
        across = page.evaluate("() => document.documentElement.scrollWidth")
        assert across <= width, state
        if SCREENSHOTS:
            page.screenshot(path=f"{SCREENSHOTS}/{state}-{size}-{scheme}.png", full_page=True)
        seen.append(state)

    check("empty")
    heic = {"name": "IMG_1.HEIC", "mimeType": "image/heic", "buffer": HEIC}
    random = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(random).save(buffer, "PNG")
    noise = {"name": "noise.png", "mimeType": "image/png", "buffer": buffer.getvalue()}
    add(page, [noise, picture(0), picture(210), heic])
    ask_for(page, "expected")
    page.wait_for_selector(".scale .bar")
    page.wait_for_selector("#progress[hidden]", state="attached")
    check("scored")
    page.click("button[title='0.png']")
    check("without a score")
    ask_for(page, "alignment")
    page.wait_for_selector("#prompt")
    check("alignment")
    ask_for(page, "quality")
    page.click("#to-compare")
    check("compare empty")
    for slot, level in (("a", 20), ("b", 30), ("reference", 40)):
        page.set_input_files(f"#slot-{slot}", picture(level))
    page.wait_for_selector("text=The orders disagree")
    check("compared")
    assert len(seen) == 6
