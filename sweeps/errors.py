"""Errors a user can mend, printed as one line."""


class SweepError(ValueError):
    """Bad input, or a part of the outside world that is not there; the message names the value and the way out."""
