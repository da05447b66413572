"""Errors for the user, with their exit codes."""

from __future__ import annotations


class TuneSwaError(Exception):
    """Base of the errors that reach a user as one message, without a traceback."""

    exit_code = 1


class RequestError(TuneSwaError):
    """The request is wrong: usage, space file, data, resources or a file on disk. Exit code 2."""

    exit_code = 2


class SearchFailed(TuneSwaError):  # noqa: N818 - reads as what happened
    """The request was fine, but the search could not produce a result. Exit code 1."""

    exit_code = 1


class Interrupted(TuneSwaError):  # noqa: N818 - reads as what happened
    """A signal ended the search; what was done is in the journal. Exit code 130."""

    exit_code = 130
