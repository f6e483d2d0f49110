import numpy as np
import pytest

from jaxqa.data.schedule import EvaluationSchedule, TrainingSchedule
from jaxqa.errors import UserError


def buckets_of(count, seed):
    return np.random.default_rng(seed).integers(0, 3, count).astype(np.int64)


def epoch(schedule, number):
    size = schedule.batches_per_epoch
    return [schedule[number * size + i] for i in range(size)]


@pytest.mark.parametrize(("count", "batch_size", "seed"), [(37, 4, 0), (64, 8, 1), (5, 5, 2)])
def test_an_epoch_takes_no_example_twice_and_leaves_out_less_than_a_batch(count, batch_size, seed):
    buckets = buckets_of(count, seed)
    schedule = TrainingSchedule(buckets, batch_size=batch_size, seed=seed)
    for number in (0, 1, 5):
        rows = np.concatenate([planned.rows for planned in epoch(schedule, number)])
        assert len(rows) == len(set(rows.tolist())) == count // batch_size * batch_size
        assert 0 <= rows.min() and rows.max() < count


def test_rows_fit_their_batch_and_only_a_rest_moves_to_a_larger_bucket():
    buckets = buckets_of(200, 3)
    batches = epoch(TrainingSchedule(buckets, batch_size=8, seed=0), 0)
    for planned in batches:
        assert planned.valid.all()
        assert (buckets[planned.rows] <= planned.bucket).all()
    moved = sum((buckets[planned.rows] < planned.bucket).sum() for planned in batches)
    assert moved <= 2 * 7


def test_epochs_and_seeds_differ_and_batches_of_buckets_are_mixed():
    buckets = buckets_of(240, 4)
    schedule = TrainingSchedule(buckets, batch_size=8, seed=0)
    other = TrainingSchedule(buckets, batch_size=8, seed=1)
    first, second = epoch(schedule, 0), epoch(schedule, 1)
    assert any((a.rows != b.rows).any() for a, b in zip(first, second, strict=True))
    assert any((a.rows != b.rows).any() for a, b in zip(first, epoch(other, 0), strict=True))
    order = [planned.bucket for planned in first]
    assert order != sorted(order)


def test_access_in_any_order_gives_the_same_batches():
    schedule = TrainingSchedule(buckets_of(50, 5), batch_size=4, seed=9)
    forward = [schedule[i].rows for i in range(40)]
    for i in np.random.default_rng(0).permutation(40).tolist():
        np.testing.assert_array_equal(schedule[i].rows, forward[i])


def test_the_shuffle_never_changes():
    """Recorded numbers: a checkpoint's position must mean the same in a later version."""
    schedule = TrainingSchedule(np.zeros(10, np.int64), batch_size=5, seed=7)
    recorded = [schedule[i].rows.tolist() for i in (0, 1, 2)]
    assert recorded == [[2, 7, 5, 9, 0], [8, 4, 1, 6, 3], [5, 4, 8, 0, 7]]


def test_the_shuffle_is_uniform():
    """Every example is as likely in every place: chi-square over 2,000 epochs of 6 examples."""
    schedule = TrainingSchedule(np.zeros(6, np.int64), batch_size=6, seed=0)
    orders = np.stack([schedule[i].rows for i in range(2000)])
    counts = np.stack([np.bincount(orders[:, place], minlength=6) for place in range(6)])
    expected = 2000 / 6
    assert ((counts - expected) ** 2 / expected).sum() < 60  # 25 degrees of freedom: p < 1e-4


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (8, 4), (23, 4)])
def test_evaluation_takes_everything_once_in_order(count, batch_size):
    buckets = buckets_of(count, 6)
    schedule = EvaluationSchedule(buckets, batch_size=batch_size)
    seen = []
    for i in range(len(schedule)):
        planned = schedule[i]
        assert len(planned.rows) == batch_size
        assert (buckets[planned.rows] == planned.bucket).all()
        assert (planned.rows[~planned.valid] == planned.rows[0]).all()
        seen.extend(planned.rows[planned.valid].tolist())
    assert seen == np.argsort(buckets, kind="stable").tolist()


def test_too_few_examples_are_refused():
    with pytest.raises(UserError, match="3 examples and a batch has 4 rows"):
        TrainingSchedule(np.zeros(3, np.int64), batch_size=4, seed=0)
    with pytest.raises(UserError, match="no examples"):
        EvaluationSchedule(np.zeros(0, np.int64), batch_size=4)
