"""Compiled rewards beside plain Python loops: milliseconds for N images, G answers to each.

    taskset -c 0 python benchmarks/rewards.py      # one core

The loops are those that the tests compare with, `tests/rewards/plain_loops.py`.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxqa.rewards.answers import LAYOUTS, Answers, Targets, score_targets
from jaxqa.rewards.registry import RANKING, REWARDS, RewardTerm, combine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "rewards"))
import plain_loops  # noqa: E402

LOOPS: dict[str, dict[str, Any]] = {
    "thurstone_fidelity": {},
    "frank": {"tie": 1.0, "gain_epsilon": 0.0},
    "completion_ranking": {
        "link": "logistic",
        "variance": "population",
        "temperature": 0.08,
        "distance": 0.12,
        "gain": "cross_entropy",
        "unit": 100.0,
    },
}
TERMS = (
    ("rank", RewardTerm(name="completion_ranking", weight=0.5, tasks=("aesthetics",))),
    ("order", RewardTerm(name="thurstone_fidelity", tasks=("quality",))),
    ("near", RewardTerm(name="adaptive_gaussian", options={"max_words": 65})),
    ("format", RewardTerm(name="format", weight=0.5)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=(64, 256))
    parser.add_argument("--answers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=200)
    options = parser.parse_args()
    print(f"{'reward':20}{'N':>6}{'compiled ms':>14}{'loop ms':>12}")
    for name, images, compiled, loop in measure(options.images, options.answers, options.repeats):
        print(f"{name:20}{images:6}{compiled:14.3f}{loop:12.1f}")


def measure(images: list[int], group: int, repeats: int) -> list[tuple[str, int, float, float]]:
    """(reward, N, milliseconds compiled, milliseconds of the loop) in the order of the table.

    The combination's loop is that of its two rankings, which take nearly all of the time.
    """
    rows = []
    for name in (*sorted(RANKING), "combine"):
        for number in images:
            answers, targets = _rollout(number, group)
            placed = jax.device_put((answers, targets))
            if name == "combine":
                function = lambda placed=placed: combine(TERMS, *placed)  # noqa: E731
                loops = [LOOPS[term.name] for _, term in TERMS if term.name in RANKING]
            else:
                function = lambda name=name, placed=placed: REWARDS[name](*placed)  # noqa: E731
                loops = [LOOPS[name]]
            compiled = _fastest(function, repeats)
            loop = sum(_fastest(lambda o=o, a=answers, t=targets: _loop(a, t, o), 1) for o in loops)
            rows.append((name, number, compiled, loop))
    return rows


def _rollout(images: int, group: int) -> tuple[Answers, Targets]:
    rng = np.random.default_rng(images)
    none = np.full((images, group), -1, np.int32)
    labels = rng.uniform(0, 100, images)
    answers = Answers(
        score=(labels[:, None] + rng.normal(0, 10, (images, group))).astype(np.float32),
        valid=rng.random((images, group)) > 0.05,
        layouts=np.ones((images, group, len(LAYOUTS)), bool),
        word_count=rng.integers(20, 100, (images, group)).astype(np.int32),
        class_id=none,
        severity_id=none,
        choice_id=none,
    )
    return answers, score_targets(labels, np.zeros(images), rng.integers(0, 2, images))


def _loop(answers: Answers, targets: Targets, options: dict[str, Any]) -> list[list[float]]:
    places = list(zip(targets.pool.tolist(), targets.task.tolist(), strict=True))
    return plain_loops.pair_rewards(
        answers.score.tolist(), answers.valid.tolist(), targets.score.tolist(), places, **options
    )


def _fastest(function: Callable[[], Any], repeats: int) -> float:
    """Milliseconds of the fastest run after a first one."""
    jax.block_until_ready(function())
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


if __name__ == "__main__":
    main()
