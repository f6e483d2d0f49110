"""The page as the server gives it out, and what it asks the server; no browser is needed."""

import re
from html.parser import HTMLParser

import pytest
from local_server import ask, b64, png, running
from writing_stand_in import REASONS, WritingModel

from jaxqa.serving import web

VOID = {"meta", "link", "input", "br", "img"}
SVG = "http://www.w3.org/2000/svg"


@pytest.fixture(scope="module")
def server():
    with running(model=WritingModel(), ui=True) as url:
        yield url


class Outline(HTMLParser):
    """Elements of a page with their attributes, and text inside scripts and styles."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.inline = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            self.inline += data.strip()

    def values(self, attribute):
        return [attrs[attribute] for _, attrs in self.elements if attribute in attrs]


@pytest.fixture(scope="module")
def assets():
    return {name: asset.content.decode() for name, asset in web.read_assets().items()}


@pytest.fixture(scope="module")
def outline(assets):
    return Outline(assets["index.html"])


def test_the_page_is_there_only_if_asked_for(server):
    with running() as plain:
        assert ask(f"{plain}/")[0] == 405  # flow_grpo's address, for POST alone
        assert ask(f"{plain}/page/app.js")[0] == 404
    assert ask(f"{server}/")[0] == 200
    assert ask(f"{server}/page/../../app.py")[0] == 404


@pytest.mark.parametrize("name", sorted(web.read_assets()))
def test_nothing_may_come_from_elsewhere(server, assets, name):
    status, content, headers = ask(f"{server}/page/{name}", with_headers=True)
    assert status == 200 and content.decode() == assets[name]
    policy = headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy and "script-src 'self'" in policy
    assert not re.search(r"unsafe|https?:|\*", headers["content-security-policy"])
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["content-type"].startswith(("text/html", "text/css", "text/java", "image/svg"))
    text = assets[name].replace(SVG, "")
    assert not re.search(r"https?://|//cdn|@import|url\(|innerHTML|eval\(", text)


def test_a_browser_that_has_it_is_told_so(server):
    _, _, headers = ask(f"{server}/page/app.js", with_headers=True)
    known = {"If-None-Match": headers["etag"]}
    assert ask(f"{server}/page/app.js", headers=known)[0] == 304
    assert ask(f"{server}/page/app.js", headers={"If-None-Match": "other"})[0] == 200


def test_a_key_locks_the_answers_and_not_the_page():
    with running(model=WritingModel(), key="a key", ui=True) as url:
        assert ask(f"{url}/")[0] == 200 and ask(f"{url}/page/app.js")[0] == 200
        assert ask(f"{url}/v1/models")[0] == 401 and ask(f"{url}/page/other.js")[0] == 401
        assert ask(f"{url}/", b"x")[0] == 401


def test_the_markup_holds_together(assets, outline):
    ids = outline.values("id")
    assert not outline.open and not outline.inline and len(set(ids)) == len(ids)
    for attribute in ("for", "aria-labelledby", "aria-describedby"):
        later = {"reading-name"}  # made when an image is chosen
        assert set(" ".join(outline.values(attribute)).split()) <= {*ids, *later}
    assert not [name for _, attrs in outline.elements for name in attrs if name.startswith("on")]
    assert not outline.values("style")
    scripts = "".join(text for name, text in assets.items() if name.endswith(".js"))
    assert set(re.findall(r"\$\(\"([a-z-]+)\"\)", scripts)) <= set(ids)
    for name in re.findall(r"from \"\./([a-z]+\.js)\"", scripts):
        assert name in assets
    for link in outline.values("href") + outline.values("src"):
        assert link.startswith("#") or link == "docs" or link.removeprefix("page/") in assets


def test_everything_to_operate_has_a_name(outline):
    labelled = outline.values("for")
    for tag, attrs in outline.elements:
        if tag in ("input", "progress", "section", "nav", "article"):
            named = attrs.get("id") in labelled
            assert named or attrs.get("aria-label") or attrs.get("aria-labelledby"), attrs
    assert {"h1", "main", "nav", "header", "footer", "caption", "legend"} <= {
        tag for tag, _ in outline.elements
    }
    assert outline.elements[0] == ("html", {"lang": "en"})


def colours(text):
    """Light and dark values of the page's colours."""
    halves = text.split("@media (prefers-color-scheme: dark)")
    light, dark = (dict(re.findall(r"--(\w[\w-]*): (#\w{6})", half)) for half in halves)
    return {"light": light, "dark": {**light, **dark}}


def luminance(colour):
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_contrast(assets, theme):
    """WCAG 2.2 AA: 4.5 for text, 3 for what must be seen to operate or to read a drawing."""
    found = colours(assets["base.css"])[theme]
    texts = [("accent-ink", "accent"), ("soft", "well"), ("ink", "well")]
    texts += [(ink, on) for ink in ("ink", "soft", "accent", "wrong") for on in ("paper", "sheet")]
    texts += [("ink", f"e{number}") for number in range(1, 6)]
    for ink, on in texts:
        assert contrast(found[ink], found[on]) >= 4.5, (ink, on)
    for mark in ("edge", "data", "marker", "accent"):
        for on in ("paper", "sheet"):
            assert contrast(found[mark], found[on]) >= 3, (mark, on)
    shades = [luminance(found[f"e{number}"]) for number in range(1, 6)]
    assert shades == sorted(shades, reverse=theme == "light")


def test_abilities(server):
    status, found = ask(f"{server}/v1/models")
    assert status == 200
    assert found["modes"]["quality"] == ["think", "fast", "expected", "mean"]
    assert found["modes"]["aesthetics"] == ["think", "expected", "mean"]
    assert found["default"] == {"task": "quality", "modes": dict.fromkeys(found["tasks"], "think")}
    assert found["needs_prompt"] == ["alignment"] and found["compares_with_reference"] is True
    assert found["limits"]["images"] == 8 and found["limits"]["pixels"] == 10_000
    with running() as plain:
        assert ask(f"{plain}/v1/models")[1]["compares_with_reference"] is False


def test_tokens_with_their_entropies(server):
    body = {"images": [b64(png(100)), b64(b"none")], "return": ["tokens", "text", "rationale"]}
    status, found = ask(f"{server}/v1/score", body)
    first, second = found["details"]
    assert status == 200 and first["rationale"] == REASONS
    assert "".join(piece["text"] for piece in first["tokens"]) == first["text"]
    assert {piece["entropy"] for piece in first["tokens"]} >= {0.0, 2.4}
    assert second == {"tokens": None, "text": "", "rationale": ""}


def test_both_orders_of_a_comparison(server):
    images = {"a": b64(png(40)), "b": b64(png(30)), "reference": b64(png(50))}
    _, found = ask(f"{server}/v1/compare", images)
    assert found["method"] == "prompt" and found["consistent"] is False
    assert found["orders"] == [1.0, 0.0] and found["scores"] == []
    _, found = ask(f"{server}/v1/compare", {"a": b64(png(255)), "b": b64(png(51))})
    assert found["method"] == "scores" and found["scores"] == [5.0, 1.8] and found["orders"] == []
    _, found = ask(f"{server}/v1/compare", {"a": b64(png(255)), "b": b64(png(0))})
    assert found["scores"] == [5.0, None] and found["choice"] is None and found["error"]
