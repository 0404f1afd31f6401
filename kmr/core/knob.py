"""Knobs: the named degrees of freedom of a technique (Definition 1)."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from kmr.core.domain import Domain, Value
from kmr.core.errors import KMRError


@dataclass(frozen=True)
class Knob:
    """A name and a domain of values.

    A knob of a whole model is named `technique.setting`. A knob of some layers adds a pattern over module paths:
    `technique.setting@layer3.*`.

    Raises:
        KMRError: the name is empty.
    """

    name: str
    domain: Domain

    def __post_init__(self) -> None:
        if not self.name:
            raise KMRError(f"a knob over {self.domain} has no name: give one")

    @property
    def layers(self) -> str:
        """The shell-style pattern of the module paths that this knob governs; `*` when it governs all."""
        return self.name.partition("@")[2] or "*"

    def governs(self, path: str) -> bool:
        """Tell whether the module at this dotted path belongs to the knob."""
        return fnmatchcase(path, self.layers)

    def check(self, value: Value) -> None:
        """Raise `KMRError` unless the value lies in the domain."""
        if value not in self.domain:
            raise KMRError(f"knob {self.name} cannot be {value!r}: choose {self.domain}")

    def is_neutral(self, value: Value) -> bool:
        """Tell whether this value leaves every model unchanged."""
        return value == self.domain.neutral
