"""Claims about a part under test, whose failures all start with the part's name."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from kmr.core import RuleWarning


@dataclass(frozen=True)
class Claim:
    """A claim about a part in a situation, such as `rule prune, prune.sparsity=0.5`."""

    about: str

    def check(self, holds: object, violated: str) -> None:
        """Raise `AssertionError` with the violation unless the claim holds."""
        if not holds:
            raise AssertionError(f"{self.about}: {violated}")

    def check_none(self, found: list[str], violated: str) -> None:
        """Raise `AssertionError` with the violation and its places, unless there are none."""
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        self.check(not found, f"{violated}: {', '.join(found[:3])}{more}")

    @contextlib.contextmanager
    def runs(self, doing: str) -> Iterator[list[str]]:
        """Run the body, which must not raise; the list collects rule warnings, and other warnings are passed on."""
        said: list[str] = []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield said
            except AssertionError:
                raise
            except Exception as error:
                raise AssertionError(f"{self.about}: {doing} raised {type(error).__name__}: {error}") from error
        for each in caught:
            if issubclass(each.category, RuleWarning):
                said.append(str(each.message))
            else:
                warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)
