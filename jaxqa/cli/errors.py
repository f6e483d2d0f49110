"""How every door reports what its user can mend."""

import errno
import sys
from collections.abc import Callable, Sequence

from jaxqa.errors import UserError

FAILED_STATUS = 1
"""Some of what was asked for could not be done; the rest was."""

USER_ERROR_STATUS = 2

STOPPED_STATUS = 130
"""Asked to stop by a signal before the result was there (128 + SIGINT, as a shell has it). What was
done is kept; a script must not take it for the result. `train` ends with 0 instead."""

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def run_door(door: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Run a door's `main(argv)`; a UserError becomes one line on stderr and status 2.

    So does a disk that is full or refuses, wherever the program meets it.
    """
    try:
        return door(argv)
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        message = (
            f"{error.filename or 'a file of this run'}: {error.strerror}; make room on the disk, "
            "give permission or choose another directory, then run the same command again"
        )
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return USER_ERROR_STATUS
