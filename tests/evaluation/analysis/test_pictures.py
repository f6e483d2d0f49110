"""Numbers behind the pictures, and that each picture can be drawn."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import jensenshannon

from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import (
    attention_share,
    comparison,
    domain_map,
    histograms,
    model_size,
    pictures,
    reward_shapes,
    token_entropy,
)
from jaxqa.evaluation.analysis.replay import CATEGORIES, TokenFacts
from jaxqa.evaluation.evaluator import Prediction
from jaxqa.rewards.registry import RewardTerm


def predictions(count=40, *, noise=0.3, dataset="jaxqa_demo", failed=0, text="fine"):
    random = np.random.default_rng(count)
    labels = random.uniform(1, 5, count)
    scores = np.clip(np.round(labels + noise * random.normal(size=count), 1), 1, 5)
    return [
        Prediction(
            example_id=i,
            image=f"{i}.png",
            dataset=dataset,
            label=float(label),
            score=float(score) if i >= failed else None,
            error=None if i >= failed else "no number",
            text=f"<think>{text} {i}</think><answer>{score}</answer>",
        )
        for i, (label, score) in enumerate(zip(labels, scores, strict=True))
    ]


def check_picture(tmp_path, figure, rows, suffix=".png"):
    path = tmp_path / f"picture{suffix}"
    data = pictures.write(path, figure, rows)
    with data.open() as file:
        assert len(list(csv.DictReader(file))) == len(rows) > 0
    if suffix == ".png":
        with Image.open(path) as image:
            assert len(image.convert("RGB").getcolors(2**24)) > 20 and image.width > 400
    first = path.read_bytes()
    pictures.write(path, figure, rows)
    assert path.read_bytes() == first


def test_histograms_count_every_image(tmp_path):
    given = {"a": predictions(60), "b": predictions(60, noise=1.0, failed=5)}
    figure, rows = histograms.draw(given, (1.0, 5.0), bins=8)
    for name, failed in (("a", 0), ("b", 5)):
        mine = [row for row in rows if row["model"] == name]
        assert sum(row["scores"] for row in mine) == 60 - failed == sum(r["labels"] for r in mine)
        assert {row["failed"] for row in mine} == {failed}
    check_picture(tmp_path, figure, rows)


def test_round_scores_on_edges_are_spread_evenly():
    edges = np.linspace(1, 5, 41)
    counts = histograms.counts_in(edges, np.round(np.arange(1, 5.05, 0.1), 1))
    assert counts.tolist() == [1] * 39 + [2]


def test_distances_agree_with_scipy():
    p, q = np.array([3, 5, 0, 2]), np.array([1, 1, 4, 4])
    assert histograms.jensen_shannon(p, q) == pytest.approx(jensenshannon(p, q) ** 2)
    assert histograms.jensen_shannon(p, p) == 0 and math.isnan(histograms.jensen_shannon(p, 0 * p))
    assert histograms.jensen_shannon(np.array([1, 0]), np.array([0, 1])) == pytest.approx(
        math.log(2)
    )
    assert histograms.earth_mover(np.array([1.0, 2.0]), np.array([4.0, 5.0])) == pytest.approx(3)
    assert math.isnan(histograms.earth_mover(np.zeros(0), np.ones(2)))


def test_reward_shapes_are_the_formulas(tmp_path):
    figure, rows = reward_shapes.draw()
    by_reward = {name: [r for r in rows if r["reward"] == name] for name in reward_shapes.PAPERS}
    for row in by_reward["OmniQuality-R, Gaussian 0.8"][::50]:
        assert row["value"] == pytest.approx(math.exp(-(row["error"] ** 2) / 1.28), abs=1e-5)
    for row in by_reward["Q-Insight, threshold 0.35"]:
        if abs(abs(row["error"]) - 0.35) > 0.01:
            assert row["value"] == (abs(row["error"]) < 0.35)
    assert all(max(r["value"] for r in mine) > 0.99 for mine in by_reward.values())
    half = RewardTerm(name="gaussian", weight=0.5, options={"sigma": 1.0})
    np.testing.assert_allclose(reward_shapes.shape(half, np.array([3.0]), 3.0), [0.5])
    check_picture(tmp_path, figure, rows, ".svg")


def table(**values):
    return [
        {"protocol": "raw", "model": m, "dataset": "average", "metric": "srcc", "value": str(v)}
        for m, v in values.items()
    ]


def test_accuracy_over_size(tmp_path):
    figure, rows = model_size.draw(table(a=0.7, b=0.8), {"b": 7e9, "a": 3e8}, dataset="average")
    assert rows == [
        {"model": "a", "parameters": 3e8, "srcc": 0.7},
        {"model": "b", "parameters": 7e9, "srcc": 0.8},
    ]
    check_picture(tmp_path, figure, rows)
    with pytest.raises(UserError, match="no srcc of c on average in the table; it has a"):
        model_size.draw(table(a=0.7), {"c": 1.0}, dataset="average")


def test_entropy_marks_the_top_tokens(tmp_path):
    texts = ["<think>", " a", " long", "er", " word" * 30, "\n", "end", "$x_1$", "</think>"]
    entropies = np.array([0.1, 2.0, 0.3, 0.0, 0.5, 0.2, 1.5, 0.4, 0.0])
    facts = TokenFacts(texts=texts, entropies=entropies, log_probs=-entropies)
    figure, rows = token_entropy.draw(facts, title="picture", top=0.25)
    assert {row["place"] for row in rows if row["top"]} == {1, 4, 6}
    check_picture(tmp_path, figure, rows)


def test_attention_shares_are_averaged(tmp_path):
    random = np.random.default_rng(0)
    shares = [random.dirichlet(np.ones(5), size=3) for _ in range(5)]
    figure, rows = attention_share.draw(shares, title="tiny")
    assert len(rows) == 15
    mean = np.mean([s[1, 2] for s in shares])
    (row,) = [r for r in rows if (r["layer"], r["part"]) == (2, "image")]
    assert row["mean"] == pytest.approx(mean)
    check_picture(tmp_path, figure, rows)


def test_attention_picture_leaves_out_what_no_answer_has():
    shares = [np.random.default_rng(n).dirichlet(np.ones(5), size=3) for n in range(4)]
    for number, expected in ((5, list(CATEGORIES)), (4, [*CATEGORIES[:3], CATEGORIES[4]])):
        if number == 4:
            for share in shares:
                share[:, 3] = 0
        figure, _ = attention_share.draw(shares, title="tiny")
        (legend,) = figure.legends
        assert [text.get_text() for text in legend.get_texts()] == expected
        bars = figure.axes[1].get_yticklabels()
        assert [text.get_text() for text in bars] == expected


@pytest.mark.parametrize("highest", [0.0, 3e-6, 0.04, 0.7, 12.0])
def test_entropy_scale_has_three_readable_marks(highest):
    """Whatever the size; below a tenth of a nat the scale ends there, and nothing is dark."""
    texts = ["<answer>", " 3", ".", "42", " </answer>"]
    entropies = highest * np.array([1.0, 0.5, 0.1, 0.0, 0.2])
    facts = TokenFacts(texts=texts, entropies=entropies, log_probs=-entropies)
    figure, _ = token_entropy.draw(facts, title="picture")
    bar = figure.axes[1]
    figure.canvas.draw()
    marks = [label.get_text() for label in bar.get_xticklabels()]
    top = max(highest, 0.1)
    assert [float(mark) for mark in marks] == pytest.approx([0, top / 2, top], rel=0.05)
    assert max(map(len, marks)) <= 5


def test_maps_keep_separate_data_sets_apart(tmp_path):
    random = np.random.default_rng(1)
    given = predictions(12) + predictions(12, dataset="kadid10k")
    apart = random.normal(size=(24, 16)) + 6 * np.repeat(np.eye(16)[:2], 12, axis=0)
    mixed = random.normal(size=(24, 16))
    figure, rows = domain_map.draw(given, apart, mixed)
    assert rows[0]["visual_separation"] == 1.0 and rows[0]["text_separation"] < 0.9
    first, second = (
        np.array([(r["visual_x"], r["visual_y"]) for r in rows[i : i + 12]]) for i in (0, 12)
    )
    gap = np.linalg.norm(first.mean(0) - second.mean(0))
    assert gap > 1.5 * max(first.std(), second.std())
    check_picture(tmp_path, figure, rows)
    with pytest.raises(UserError, match="at least 5"):
        domain_map.draw(given[:4], apart[:4], mixed[:4])


def test_comparison_puts_disagreement_first_and_escapes(tmp_path):
    first, second = predictions(20), predictions(20, noise=0.3, text="<b>bold</b>")
    far = 1.0 if first[7].score > 3 else 5.0
    second[7] = dataclasses.replace(second[7], score=far)
    second[3] = dataclasses.replace(second[3], score=None, error="no <number>")
    items, total = comparison.select({"one": first, "two": second}, limit=5)
    assert total == 20 and len(items) == 5
    assert [item["image"] for item in items[:2]] == ["3.png", "7.png"]
    page = comparison.render(items, total)
    assert "&lt;b&gt;bold" in page and "<b>" not in page and "no &lt;number&gt;" in page
    assert "5 of 20 images" in page and "Labels are computed" in page and "(no picture)" in page
    json.dumps(items)
    with pytest.raises(UserError, match="share no image"):
        comparison.select({"one": first[:3], "two": second[4:]})


def test_unknown_suffixes_are_refused(tmp_path):
    figure, rows = reward_shapes.draw()
    with pytest.raises(UserError, match=r"ends in \.png, \.svg, \.pdf"):
        pictures.write(tmp_path / "picture.jpg", figure, rows)
