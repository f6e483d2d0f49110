"""The selector study against enumeration, and its intervals."""

import itertools
import math

import numpy as np
import pytest

from jaxqa.selection import tables
from jaxqa.selection.candidates import Candidate, Selection
from jaxqa.selection.prompt_sets import PromptSet
from jaxqa.selection.study import choice_probabilities, expected_choice, sizes, study

WEIGHTS = {"quality": 1.0, "aesthetics": 3.0, "onlooker": 0.0}


def selection(key, scores, round=0):
    """Candidates from rows of normalised scores; None for no score."""
    candidates = [
        Candidate(
            number=number,
            round=round,
            path=f"{number}.png",
            instruction="x",
            scores={
                name: {"score": None if v is None else 1 + 4 * v, "normalised": v, "error": None}
                for name, v in zip(WEIGHTS, row, strict=True)
            },
        )
        for number, row in enumerate(scores)
    ]
    prompts = PromptSet(key=key, prompt="x", metadata={})
    return Selection(prompts=prompts, candidates=candidates)


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_expected_choice_is_the_mean_over_all_subsets(count):
    random = np.random.default_rng(count)
    values = random.normal(size=(count, 2))
    keys = random.integers(0, 4, count).astype(float)  # with ties
    for n in range(1, count + 1):
        subsets = [list(subset) for subset in itertools.combinations(range(count), n)]
        best = [subset[int(np.argmax(keys[subset]))] for subset in subsets]
        assert expected_choice(values, keys, n) == pytest.approx(values[best].mean(0))
        assert choice_probabilities(count, n).sum() == pytest.approx(1)
    for n in (0, count + 1):
        with pytest.raises(ValueError, match=f"n is {n}"):
            choice_probabilities(count, n)


def test_large_subsets_do_not_overflow():
    chances = choice_probabilities(2048, 1000)
    assert chances.sum() == pytest.approx(1) and chances[0] == pytest.approx(1000 / 2048)


def test_sizes():
    assert sizes([3, 20]) == [1, 2, 4, 8, 16, 20]
    assert sizes([8, 8]) == [1, 2, 4, 8]
    assert sizes([1]) == [1]
    assert sizes([]) == []


def drawn(prompts=40, count=6, seed=0):
    random = np.random.default_rng(seed)
    return [
        selection(f"{number:05d}", random.uniform(size=(count, 3)).tolist())
        for number in range(prompts)
    ]


def test_rows_against_plain_loops():
    selections = drawn()
    found = study(selections, WEIGHTS)
    rows = {(row.selector, row.column): row for row in found.rows}
    assert found.columns == ("quality", "aesthetics", "onlooker", "combined")
    assert {row.selector for row in found.rows} == {*found.columns, "random", "first"}
    table = np.array(
        [[[s["normalised"] for s in c.scores.values()] for c in p.candidates] for p in selections]
    )  # [prompts, candidates, judges]
    combined = table @ np.array([0.25, 0.75, 0.0])
    picked = np.array([table[p, combined[p].argmax(), 0] for p in range(len(table))]) * 4 + 1
    row = rows["combined", "quality"]
    assert row.mean == pytest.approx(picked.mean()) and row.spread == pytest.approx(
        picked.std(ddof=1)
    )
    average, first = table[:, :, 0].mean(1) * 4 + 1, table[:, 0, 0] * 4 + 1
    assert row.gain == pytest.approx((picked - average).mean())
    assert row.gain_first == pytest.approx((picked - first).mean())
    # the normal interval of a mean of many is near the bootstrap's
    gains = picked - average
    half = 1.96 * gains.std(ddof=1) / math.sqrt(len(gains))
    assert row.gain_interval.low == pytest.approx(gains.mean() - half, abs=0.3 * half)
    assert row.gain_interval.high == pytest.approx(gains.mean() + half, abs=0.3 * half)
    assert rows["random", "quality"].gain == 0 and rows["first", "quality"].gain_first == 0
    assert rows["quality", "quality"].mean >= row.mean  # alone it is best at its own
    assert rows["combined", "combined"].mean == pytest.approx(combined.max(1).mean())


def test_the_sweep_begins_at_random_and_ends_at_all():
    found = study(drawn(), WEIGHTS)
    rows = {(row.selector, row.column): row.mean for row in found.rows}
    sweep = {(row.selector, row.n, row.column): row.mean for row in found.sweep}
    for selector, column in itertools.product(found.columns, found.columns):
        assert sweep[selector, 1, column] == pytest.approx(rows["random", column])
        assert sweep[selector, 6, column] == pytest.approx(rows[selector, column])
    own = [sweep["combined", n, "combined"] for n in (1, 2, 4, 6)]
    assert own == sorted(own)


def test_only_whole_candidates_of_the_first_round_count():
    whole = selection("00000", [[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    whole.candidates += selection("x", [[0.9, 0.9, 0.9]], round=1).candidates
    partly = selection("00001", [[0.9, 0.9, None], [0.4, 0.4, 0.4]])
    nothing = selection("00002", [[None, 0.5, 0.5]])
    found = study([whole, partly, nothing], WEIGHTS)
    assert found.left_out == 1
    row = next(r for r in found.rows if (r.selector, r.column) == ("quality", "quality"))
    assert row.prompts == 2 and row.mean == pytest.approx(1 + 4 * (0.2 + 0.4) / 2)
    larger = next(r for r in found.sweep if (r.selector, r.n) == ("quality", 2))
    assert larger.prompts == 1
    empty = study([nothing], WEIGHTS)
    assert empty.rows == () and tables.study_tables(empty) == []
    assert tables.study_csv(empty).count("\n") == 1


def test_tables_for_readers():
    found = study(drawn(prompts=3, count=3), WEIGHTS)
    text = tables.markdown(tables.study_tables(found))
    assert "| chosen by | quality | aesthetics | onlooker | combined |" in text
    assert "| chosen by, best of | 1 | 2 | 3 |" in text and "| prompts | 3 | 3 | 3 |" in text
    lines = tables.study_csv(found).splitlines()
    assert lines[0].startswith("selector,n,column,prompts,mean,spread,low,high,gain,gain_low")
    assert len(lines) == 1 + 6 * 4 + 3 * 4 * 4
    single = study(drawn(prompts=1), WEIGHTS)
    assert "± –" in tables.markdown(tables.study_tables(single))  # no spread over one prompt
