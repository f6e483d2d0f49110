"""The door `best-of-n` with instant judges; it can be told to kill itself after some images.

python best_of_n_stand_in.py KILL_AFTER ARGUMENTS...
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "selection"))

from judge_stand_in import JudgeAsker, judge_scorer  # noqa: E402

from jaxqa.serving import loading  # noqa: E402


def load(path, *, options=None, workers=None):
    """Instead of `loading.load`."""
    del options, workers
    scorer = judge_scorer(tasks=("quality",)) if "other" in str(path) else judge_scorer()
    scorer.name = str(path)
    return scorer


def main():
    """Run the door."""
    from jaxqa.cli import best_of_n

    left = int(sys.argv[1])
    answered = 0

    def collect(self, running, collect=JudgeAsker.collect):
        nonlocal answered
        answered += len(running)
        if left and answered > left:
            os.kill(os.getpid(), signal.SIGKILL)
        return collect(self, running)

    JudgeAsker.collect = collect  # type: ignore[method-assign]
    loading.load = load
    status = best_of_n.main(sys.argv[2:])
    print(f"answered {answered}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
