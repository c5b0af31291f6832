"""Errors that the caller can mend: bad settings and bad data."""


class UserError(ValueError):
    """Something that was asked for is wrong; the message says what, what is allowed, what to do.

    The programs in ``experiments`` print the message as one line and exit with code 2.
    """


class DataError(UserError):
    """A data file is missing, damaged or unusable."""


class NotHereError(DataError):
    """A dataset is not on this machine, and downloading it was not allowed."""


class ProgramError(Exception):
    """Something outside failed that the user did not ask wrongly.

    The programs in ``experiments`` print the message as one line and exit with code 1.
    """
