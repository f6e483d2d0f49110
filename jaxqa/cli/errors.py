"""How every door reports what its user can mend."""

import sys
from collections.abc import Callable, Sequence

from jaxqa.errors import UserError

USER_ERROR_STATUS = 2


def run_door(door: Callable[[Sequence[str] | None], int], argv: Sequence[str] | None) -> int:
    """Run a door's `main(argv)`; a UserError becomes a line on stderr and status 2."""
    try:
        return door(argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR_STATUS
