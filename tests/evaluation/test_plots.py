import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from jaxqa.evaluation import curves, plots
from jaxqa.evaluation.evaluator import Prediction


def predictions(scores, labels):
    return [
        Prediction(
            example_id=i,
            image="a.png",
            dataset="jaxqa_demo",
            label=label,
            score=score,
            text="",
            error="none" if score is None else None,
        )
        for i, (score, label) in enumerate(zip(scores, labels, strict=True))
    ]


def parsed(svg):
    """An SVG as the page's HTML parser reads it; the namespace is implied there."""
    named = svg.replace("<svg ", '<svg xmlns:xlink="http://www.w3.org/1999/xlink" ', 1)
    return ElementTree.fromstring(named)


def texts(svg):
    return [element.text for element in parsed(svg).iter("text")]


@pytest.mark.parametrize("seed", [0, 1])
def test_line_is_the_least_squares_fit(seed):
    random = np.random.default_rng(seed)
    scores, labels = random.uniform(1, 5, 31), random.uniform(1, 5, 31)
    assert plots.fitted_line(scores, labels) == pytest.approx(np.polyfit(scores, labels, 1))


def test_no_line_through_equal_scores():
    assert plots.fitted_line(np.array([3.0, 3.0]), np.array([1.0, 5.0])) is None
    assert plots.fitted_line(np.array([3.0]), np.array([1.0])) is None
    assert plots.fitted_line(np.array([]), np.array([])) is None


@pytest.mark.parametrize("length", [1, 2, 23, 24, 47, 100])
def test_running_mean_equals_a_loop(length):
    values = np.random.default_rng(length).normal(size=length)
    half = length // 24
    slow = [values[max(0, i - half) : i + half + 1].mean() for i in range(length)]
    np.testing.assert_allclose(plots.running_mean(values), slow, atol=1e-12)


@pytest.mark.parametrize("scores", [[None], [3.0], [3.0, 3.0], [1.0, 5.0, None, 2.25]])
def test_figures_stand_few_and_failed_scores(scores):
    given = predictions(scores, np.linspace(1, 5, len(scores)).tolist())
    for draw in (plots.scatter, plots.distributions):
        svg = draw(given, label_range=(1.0, 5.0), colour="#2f6690")
        assert {"1", "2", "3", "4", "5"} <= set(texts(svg))


def test_scatter_has_a_dot_for_every_score():
    given = predictions([1.0, 2.0, 3.0, None], [1.0, 2.0, 5.0, 4.0])
    svg = plots.scatter(given, label_range=(1.0, 5.0), colour="#010203")
    dots = [u for u in parsed(svg).iter("use") if "fill: #010203" in u.attrib.get("style", "")]
    assert len(dots) == 3
    heights = [float(dot.attrib["y"]) for dot in dots]
    assert heights == sorted(heights, reverse=True)  # higher labels stand higher


def test_many_dots_become_one_picture():
    scores = np.random.default_rng(0).uniform(1, 5, 4000).tolist()
    svg = plots.scatter(predictions(scores, scores), label_range=(1.0, 5.0), colour="#2f6690")
    assert len(svg) < 200_000 and "<image" in svg


@pytest.mark.parametrize("length", [1, 2, 5000])
@pytest.mark.parametrize("smooth", [True, False])
def test_curves_stay_small(length, smooth):
    points = [(i, float(np.sin(i / 50))) for i in range(length)]
    svg = plots.curve(points, colour="#2f6690", name="Loss", smooth=smooth)
    assert "step" in texts(svg) and len(svg) < 40_000


def test_same_figure_is_the_same_text_and_others_share_no_id():
    points = [(1, 0.0), (2, 1.0)]
    first = plots.curve(points, colour="#2f6690", name="Loss")
    assert plots.curve(points, colour="#2f6690", name="Loss") == first
    other = plots.curve(points, colour="#2f6690", name="Reward")

    def identities(svg):
        return {e.attrib["id"] for e in parsed(svg).iter() if "id" in e.attrib}

    assert identities(first) and not identities(first) & identities(other)


def test_metric_names_are_escaped():
    svg = plots.curve([(1, 0.0)], colour="#2f6690", name='"><script>alert(1)</script>')
    assert "script" not in {element.tag for element in parsed(svg).iter()}


def test_panels_know_their_metrics_and_keep_the_others():
    series = {
        "reward": [(1, 0.5), (2, 0.7)],
        "reward_gaussian": [(1, 0.4), (2, 0.5)],
        "reward_format": [(1, 1.0), (2, 1.0)],
        "reward_std": [(1, 0.25), (2, 0.0)],
        "loss": [(1, -0.25), (2, 0.0)],
        "learning_rate": [(1, 1e-5), (2, 1e-4), (3, 0.0)],
        "grad_norm": [(1, 1200.4)],
    }
    known, others = curves.panels(series, colour="#2f6690")
    assert [panel.title for panel in known] == ["Loss", "Reward", "Reward spread", "Learning rate"]
    assert known[1].parts == [("format", "dashed"), ("gaussian", "dotted")]
    numbers = [panel.numbers for panel in known]
    assert numbers == ["−0.25 → 0", "0.5 → 0.7", "0.25 → 0", "peak 1.0e−4"]
    assert [(panel.title, panel.numbers) for panel in others] == [("grad_norm", "1200 → 1200")]


def test_parts_without_their_whole_are_not_lost():
    _, others = curves.panels({"reward_gaussian": [(1, 0.4)]}, colour="#2f6690")
    assert [panel.title for panel in others] == ["reward_gaussian"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.001, "0.001"),
        (-0.000123, "−1.2e−4"),
        (12.345, "12.3"),
        (999.6, "1000"),
        (-4990.0, "−4990"),
        (1234567.0, "1.2e6"),
    ],
)
def test_numbers_are_short(value, text):
    assert curves.significant(value) == text
