"""The train door, sent a signal by itself at a chosen moment.

    python interrupt.py SIGNAL EVENT PATTERN COUNT --config=... --workdir=...

The moment is just before the COUNT-th audit event EVENT (`os.rename`, `os.mkdir`, `open`, ...; `*`
for all of FILE_EVENTS) one of whose paths matches the regular expression PATTERN. SIGKILL goes to
this process alone, as from `kill -9`; others go to its whole group, as from a scheduler. COUNT 0
never comes; such a run ends with the line "... operations", how many events there were.
"""

import itertools
import os
import re
import signal
import sys

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def lie_in_wait(number: int, event: str, pattern: str, count: int) -> itertools.count:
    """Install the trap; returns the counter of such events, from 1."""
    send = os.kill if number == signal.SIGKILL else os.killpg
    events = FILE_EVENTS if event == "*" else (event,)
    wanted = re.compile(pattern)
    counter = itertools.count(1)  # its `next` is atomic: events come from several threads

    def hook(name, arguments):
        if name in events:
            paths = (os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike))
            if any(map(wanted.search, paths)) and next(counter) == count:
                send(os.getpid(), number)

    sys.addaudithook(hook)
    return counter


def main() -> int:
    """Run the door with the arguments after the first four."""
    number, event, pattern, count = sys.argv[1:5]
    counter = lie_in_wait(signal.Signals[number], event, pattern, int(count))
    from jaxqa.cli import train

    status = train.main(sys.argv[5:])
    if count == "0":
        print(f"{next(counter) - 1} operations")
    return status


if __name__ == "__main__":
    sys.exit(main())
