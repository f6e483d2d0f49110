"""What gives a hidden score away, and what does not."""

import random

import pytest
from chat_server import item

from jaxqa.reasoning.labels import five_level, known_scales, unit_score
from jaxqa.reasoning.leaks import find_leak

HONEST = [
    "Soft window light falls on three boats; the composition is balanced and the mood calm.",
    "Shot at f/1.4 or so, with 85 mm of reach, the background melts away.",  # far from any score
    "The horizon sits a third of the way up, and 2 figures walk out of the frame.",
    "Operating at the edge of its dynamic range, the frame rate of life seems to slow.",
    "The stars above the ridge are underrated subjects; points of interest lead the eye.",
    "A good picture, on the whole, though the exposure is a little dark.",
    "The 1920s facade and the 10 windows form a strict pattern.",
    "At 1/60 of a second, in 1962, a 62mm filter: 62,000 people saw it at 5:62.",
    "",
]

TELLING = [
    "This deserves a score in the upper range.",
    "The overall rating is modest.",
    "It could be rated higher.",
    "I give it seven out of ten.",
    "Perhaps 6/10.",
    "8 / 10 for effort",
    "A four-star picture.",
    "It earns 3 points.",
    "Its MOS would be low.",
    "This agrees with the ground truth.",
    "As instructed, I do not name it.",
    "The given value suggests mediocrity.",
    "It matches the hidden judgment.",
    "About 0.62 of what is possible.",
    "roughly .6 I think",
    "62% convincing",
    "some 60 percent there",
    "a solid 3.5 in quality",
    "6.2 would be fair",
    "62.4 is near",
    "somewhere near 62, all told",
    "a picture in the low 60s or at 60, perhaps",
]


def test_known_scales_of_a_label():
    made = item(score=3.48)
    assert unit_score(made) == pytest.approx(0.62)
    found = dict(known_scales(made))
    assert list(found) == pytest.approx([0.62, 3.48, 6.2, 62.0])
    assert list(found.values()) == [1, 4, 10, 100]


@pytest.mark.parametrize("text", HONEST)
def test_honest_texts(text):
    assert find_leak(text, scores=known_scales(item(score=3.48)), tolerance=0.05) is None


@pytest.mark.parametrize("text", TELLING)
def test_telling_texts(text):
    leak = find_leak(text, scores=known_scales(item(score=3.48)), tolerance=0.05)
    assert leak and leak in text


def test_every_way_to_write_the_score_down_is_found():
    rng = random.Random(0)
    for _ in range(300):
        score = rng.uniform(1, 5)
        scales = known_scales(item(score=score))
        unit = (score - 1) / 4
        points = (f"{score:.2f}", f"{score:.1f}", f"{unit:.2f}", f"{100 * unit:.1f}%")
        for number in (*points, *(point.replace(".", ",") for point in points[:3])):
            text = f"I would put it near {number}, all in all."
            assert find_leak(text, scores=scales, tolerance=0.05), (score, number)
        far = unit + 0.5 if unit < 0.5 else unit - 0.5
        text = f"The lens costs {far * 1e4 + 150:.2f} a day."
        assert find_leak(text, scores=scales, tolerance=0.05) is None


def test_tolerance_is_a_share_of_the_range():
    scales = known_scales(item(score=3.0))
    for number, near in ((3.19, True), (3.21, False), (0.549, True), (0.551, False)):
        found = find_leak(f"near {number}", scores=scales, tolerance=0.05)
        assert (found is not None) == near, number


def test_five_levels():
    expected = ["bad"] * 1 + ["poor"] * 2 + ["fair"] * 2 + ["good"] * 3 + ["excellent"]
    assert [
        five_level(x) for x in (0.0, 0.13, 0.37, 0.38, 0.62, 0.63, 0.75, 0.87, 0.88)
    ] == expected
    assert five_level(-1.0) == "bad" and five_level(2.0) == "excellent"
