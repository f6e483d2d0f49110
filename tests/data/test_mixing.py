"""Batches from several sources: in proportion, evenly, reproducibly, in one bucket each."""

import numpy as np
import pytest

from jaxqa.data.schedule import AlternatingSchedule, MixedSchedule
from jaxqa.errors import UserError

SIZES = (130, 57, 9)
WEIGHTS = (3.0, 1.5, 0.5)


def buckets_of(seed, sizes=SIZES, counts=(3, 3, 3)):
    rng = np.random.default_rng(seed)
    return [
        rng.integers(0, n, size).astype(np.int64) for n, size in zip(counts, sizes, strict=True)
    ]


def sources_of(rows, sizes=SIZES):
    return np.searchsorted(np.cumsum(sizes), rows, side="right")


def rows_of(schedule, count):
    return np.concatenate([schedule[number].rows for number in range(count)])


def mixed(buckets, weights=WEIGHTS, batch_size=8, seed=0):
    return MixedSchedule(buckets, weights=weights, batch_size=batch_size, seed=seed)


@pytest.mark.parametrize("kind", [MixedSchedule, AlternatingSchedule])
def test_sources_get_their_share(kind):
    schedule = kind(buckets_of(0), weights=WEIGHTS, batch_size=8, seed=0)
    for count in (48, 480, 2400):
        shares = np.bincount(sources_of(rows_of(schedule, count)), minlength=3) / (8 * count)
        assert np.abs(shares - np.array(WEIGHTS) / 5).max() < 40 / (8 * count)


def test_each_batch_holds_the_sources_in_proportion_where_they_share_buckets():
    one_bucket = [np.zeros(size, np.int64) for size in SIZES]
    schedule = mixed(one_bucket, batch_size=20)
    for number in range(60):
        counts = np.bincount(sources_of(schedule[number].rows), minlength=3)
        assert (np.abs(counts - [12, 6, 2]) <= 1).all()


def test_rows_fit_their_batch_and_few_move_to_a_larger_bucket():
    buckets = buckets_of(1)
    every = np.concatenate(buckets)
    schedule, moved = mixed(buckets), 0
    rounds = 20
    for number in range(rounds * (sum(SIZES) // 8)):
        planned = schedule[number]
        assert len(planned.rows) == 8 and planned.valid.all()
        assert (every[planned.rows] <= planned.bucket).all()
        moved += int((every[planned.rows] < planned.bucket).sum())
    assert moved <= rounds * 2 * 7


def test_a_source_alone_in_its_bucket_does_not_starve():
    buckets = [np.zeros(90, np.int64), np.ones(6, np.int64)]
    for kind in (MixedSchedule, AlternatingSchedule):
        schedule = kind(buckets, weights=(0.9, 0.1), batch_size=4, seed=0)
        rows = rows_of(schedule, 960)
        assert np.bincount(sources_of(rows, (90, 6))).tolist() == pytest.approx(
            [3456, 384], abs=4 * 6
        )


def test_a_sources_examples_come_equally_often_and_once_in_each_of_its_epochs():
    schedule = mixed([np.zeros(size, np.int64) for size in SIZES])
    rows = rows_of(schedule, 1000)
    for source, offset in enumerate((0, 130, 187)):
        mine = rows[sources_of(rows) == source] - offset
        counts = np.bincount(mine, minlength=SIZES[source])
        # A round's batches are shuffled, so epochs overlap by less than a round of the source.
        assert counts.max() - counts.min() <= 1 + -(-24 * 8 // SIZES[source])
        assert counts.min() > 0


@pytest.mark.parametrize("kind", [MixedSchedule, AlternatingSchedule])
def test_a_batch_is_a_function_of_its_number_and_the_seed(kind):
    schedule = kind(buckets_of(2), weights=WEIGHTS, batch_size=8, seed=5)
    forward = [schedule[number] for number in range(90)]
    for number in np.random.default_rng(0).permutation(90).tolist():
        np.testing.assert_array_equal(schedule[number].rows, forward[number].rows)
        assert schedule[number].bucket == forward[number].bucket
    again = kind(buckets_of(2), weights=WEIGHTS, batch_size=8, seed=5)
    np.testing.assert_array_equal(again[70].rows, forward[70].rows)
    other = kind(buckets_of(2), weights=WEIGHTS, batch_size=8, seed=6)
    assert any((other[n].rows != forward[n].rows).any() for n in range(10))
    first, second = forward[:24], forward[24:48]
    assert any((a.rows != b.rows).any() for a, b in zip(first, second, strict=True))


def test_batches_of_one_source_each_take_turns():
    schedule = AlternatingSchedule(buckets_of(3), weights=(2.0, 1.0, 1.0), batch_size=8, seed=0)
    turns = []
    for number in range(200):
        found = set(sources_of(schedule[number].rows).tolist())
        assert len(found) == 1
        turns += found
    for start in range(0, 196, 4):  # evenly: no source waits for long
        assert turns[start : start + 8].count(0) >= 2


def test_the_order_never_changes():
    """Recorded numbers: a checkpoint's position must mean the same in a later version."""
    buckets = [np.zeros(5, np.int64), np.zeros(3, np.int64)]
    schedule = MixedSchedule(buckets, weights=(1.0, 1.0), batch_size=4, seed=7)
    assert [schedule[n].rows.tolist() for n in range(3)] == RECORDED_ROWS
    schedule = AlternatingSchedule(buckets, weights=(1.0, 2.0), batch_size=3, seed=7)
    assert [schedule[n].rows.tolist() for n in range(4)] == RECORDED_BATCHES


RECORDED_ROWS = [[4, 7, 1, 6], [3, 5, 2, 5], [0, 6, 3, 7]]
RECORDED_BATCHES = [[7, 6, 5], [4, 1, 3], [5, 6, 7], [6, 7, 5]]


def test_a_light_source_and_many_sources():
    sizes = (40, 2, *(3,) * 6)
    buckets = [np.zeros(size, np.int64) for size in sizes]
    weights = (1.0, 1e-4, *(0.1,) * 6)
    schedule = MixedSchedule(buckets, weights=weights, batch_size=4, seed=0)
    counts = np.bincount(sources_of(rows_of(schedule, 8000), sizes), minlength=8)
    assert counts[1] == pytest.approx(32_000 * 1e-4 / sum(weights), abs=2) and counts[1] > 0


def test_too_few_examples_in_all_or_none_in_one_are_refused():
    with pytest.raises(UserError, match="have 2, 1 examples and a batch has 4 rows"):
        mixed(buckets_of(0, (2, 1), (1, 1)), weights=(1.0, 1.0), batch_size=4)
    with pytest.raises(UserError, match="have 9, 0 examples"):
        mixed(buckets_of(0, (9, 0), (1, 1)), weights=(1.0, 1.0), batch_size=4)
    with pytest.raises(UserError, match="has 2 examples and a batch has 4 rows"):
        AlternatingSchedule(buckets_of(0, (9, 2), (1, 1)), weights=(1.0, 1.0), batch_size=4, seed=0)
