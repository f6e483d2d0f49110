"""Rationales in a text space: what counts as one, and whether neighbours share quality."""

import numpy as np
import pytest
from scipy import stats

from jaxqa.errors import UserError
from jaxqa.evaluation.analysis import text_space
from jaxqa.evaluation.evaluator import Prediction


def predictions(labels, words=3):
    return [
        Prediction(
            example_id=i,
            image=f"{i}.png",
            dataset="jaxqa_demo",
            label=float(label),
            score=3.0,
            text=f"<think>{' fine' * words}</think><answer>3.00</answer>",
        )
        for i, label in enumerate(labels)
    ]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>\n a  b </think><answer> 3 </answer>", "a b"),
        ("a b <answer>3</answer> c", "a b c"),
        ("a b <answer>3", "a b"),
        ("no tags", "no tags"),
        ("<think></think><answer>3</answer>", ""),
    ],
)
def test_the_score_is_no_part_of_a_rationale(text, expected):
    assert text_space.rationale(text) == expected


def test_neighbours_tell_quality_only_where_the_space_is_sorted_by_it():
    random = np.random.default_rng(0)
    labels = random.uniform(1, 5, 60)
    angles = labels / 5
    sorted_space = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert text_space.neighbour_srcc(sorted_space, labels) > 0.98
    assert abs(text_space.neighbour_srcc(unit(random.normal(size=(60, 8))), labels)) < 0.4
    # A loop over images.
    space = unit(random.normal(size=(12, 3)))
    means = []
    for i in range(12):
        others = sorted((j for j in range(12) if j != i), key=lambda j: -space[i] @ space[j])
        means.append(labels[others[:5]].mean())
    expected = stats.spearmanr(means, labels[:12]).statistic
    assert text_space.neighbour_srcc(space, labels[:12]) == pytest.approx(expected)
    assert np.isnan(text_space.neighbour_srcc(space, np.ones(12)))


def test_rows_hold_what_the_picture_shows():
    random = np.random.default_rng(1)
    models = {"base": predictions(range(1, 9), words=9), "rl": predictions(range(2, 8), words=2)}
    embeddings = {name: unit(random.normal(size=(len(p), 6))) for name, p in models.items()}
    figure, rows = text_space.draw(models, embeddings)
    assert [row["words"] for row in rows] == [9] * 8 + [2] * 6
    assert [row["label"] for row in rows[8:]] == list(range(2, 8))
    assert [axis.get_title("left") for axis in figure.axes[:2]] == ["base", "rl"]
    shown = np.concatenate([axis.collections[-1].get_offsets() for axis in figure.axes[:2]])
    written = np.array([(row["x"], row["y"]) for row in rows])
    assert sorted(map(tuple, np.asarray(shown))) == sorted(map(tuple, written))
    assert text_space.draw(models, embeddings)[1] == rows  # the same for the same seed


def test_a_map_needs_five_rationales():
    models = {"rl": predictions(range(4))}
    with pytest.raises(UserError, match="rl: 4 rationales; a map needs at least 5"):
        text_space.draw(models, {"rl": np.eye(4)})
