"""The door `score` with an instant model; it can be told to kill itself after some images.

python score_stand_in.py KILL_AFTER ARGUMENTS...
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "scoring"))

from stand_in import StandInAsker, StandInModel  # noqa: E402

from jaxqa.scoring.api import ImageScorer  # noqa: E402
from jaxqa.serving import loading  # noqa: E402


class Mortal(StandInAsker):
    """Kills the process, as `kill -9` does, when it has answered `left` images."""

    left = 0
    answered = 0

    def collect(self, running):
        """Answer, or die."""
        found = []
        for row, score in zip(running, super().collect(running), strict=True):
            del row
            Mortal.answered += 1
            found.append(score)
        if Mortal.left and Mortal.answered > Mortal.left:
            os.kill(os.getpid(), signal.SIGKILL)
        return found


def load(path, *, options=None, workers=None):
    """Instead of `loading.load`."""
    del options, workers
    return ImageScorer(StandInModel(Mortal()), name=str(path), workers=2)


def main():
    """Run the door."""
    from jaxqa.cli import score

    Mortal.left = int(sys.argv[1])
    loading.load = load
    status = score.main(sys.argv[2:])
    print(f"answered {Mortal.answered}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
