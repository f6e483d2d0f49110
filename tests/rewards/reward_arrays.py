"""Answers and targets for the tests of rewards."""

import numpy as np

from jaxqa.rewards.answers import LAYOUTS, Answers, Targets, score_targets


def make_answers(scores, valid=None, *, words=0, **fields) -> Answers:
    """Answers with these scores, in every layout; `fields` replace class_id and the like."""
    scores = np.asarray(scores, np.float32)
    names = dict.fromkeys(("class_id", "severity_id", "choice_id"), -1) | fields
    return Answers(
        score=scores,
        valid=np.ones(scores.shape, bool) if valid is None else np.asarray(valid, bool),
        layouts=np.ones((*scores.shape, len(LAYOUTS)), bool),
        word_count=np.broadcast_to(np.asarray(words, np.int32), scores.shape),
        **{k: np.broadcast_to(np.asarray(v, np.int32), scores.shape) for k, v in names.items()},
    )


def make_targets(scores, pool=None, task=None) -> Targets:
    scores = np.asarray(scores, np.float32)
    return score_targets(scores, np.zeros(scores.shape, np.int32) if pool is None else pool, task)


def random_rollout(seed: int, *, rows: int, group: int, pools: int = 1, unread: float = 0.0):
    """Decimals from 1 to 5, so that labels tie and groups agree now and then."""
    rng = np.random.default_rng(seed)
    labels = np.round(rng.uniform(1, 5, rows), 1)
    scores = np.round(labels[:, None] + rng.normal(0, 0.6, (rows, group)), 1)
    scores[rng.random(rows) < 0.2] = 3.2  # whole groups agree
    answers = make_answers(scores, rng.random((rows, group)) >= unread)
    return answers, make_targets(labels, rng.integers(0, pools, rows), rng.integers(0, 2, rows))
