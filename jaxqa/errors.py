"""Errors that a user caused and can mend."""


class UserError(Exception):
    """Bad input: one clear line that says what was found, what was expected and what to do.

    The command-line doors print the message without a traceback and exit with status 2.
    """
