"""Errors that a user can fix, printed on one line."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from types import MappingProxyType

from analysis import renamed_meters


class SweepError(ValueError):
    """Error of input or environment that a user can fix; the message names the value and what to do."""


def unknown(
    name: str, known: Sequence[str], *, all_of_them: bool = True, names_now: Mapping[str, str] = MappingProxyType({})
) -> str:
    """Return the hint that ends a message about an unknown name: its new name, or the nearest and all known names.

    Args:
        name: the unknown name.
        known: the known names, in the order to show.
        all_of_them: whether to list all known names even if one is near.
        names_now: renamed names: old to new.
    """
    if name in names_now:
        return f": it is now {names_now[name]}"
    if now := renamed_meters.hint(name):
        return f": {now}"
    close = get_close_matches(name, known, 1)
    nearest = f": did you mean {close[0]}?" if close else ""
    listed = f"there are {', '.join(known)}" if known else "there is none"
    if not close:
        return f": {listed}"
    return f"{nearest} T{listed[1:]}" if all_of_them else nearest


def one_line(error: BaseException) -> str:
    """Return an error's message on one line of at most 400 characters."""
    text = " ".join(str(error).split()) or "no message"
    return text if len(text) <= 400 else text[:397] + "…"


def describe(error: BaseException) -> str:
    """Return an error's kind and message on one line."""
    return f"{type(error).__name__}: {one_line(error)}"
