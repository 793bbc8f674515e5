"""The one exception that is meant for the person at the command line."""


class UserError(ValueError):
    """Bad input. The message says what was given, what is allowed and what to do.

    `main.py` prints it as one `error:` line, without a traceback, and exits with status 2.
    """
