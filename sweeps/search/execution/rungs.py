"""What trials measured at each fidelity, in a file that any number of processes append to."""

import errno
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, final

from sweeps.errors import SweepError

FILE = "rungs.jsonl"


class Verdict(StrEnum):
    """Whether a trial goes on to its next fidelity."""

    CONTINUE = "continue"
    STOP = "stop"


@dataclass(frozen=True)
class Decision:
    """A verdict and the sentence that explains it."""

    verdict: Verdict
    reason: str

    @property
    def stops(self) -> bool:
        """Whether the trial ends here."""
        return self.verdict is Verdict.STOP


@dataclass(frozen=True)
class Record:
    """One trial at one rung: what it measured there, at which fidelity, and what was decided.

    A value that is not finite is NaN; a standard error of 0 means exact or unknown.
    """

    trial: int
    rung: int
    fidelity: float
    values: tuple[float, ...]
    stderrs: tuple[float, ...]
    decision: Decision

    def to_line(self) -> bytes:
        """Encode the record as one line of JSON, NaN as null."""
        return json.dumps(
            {
                "trial": self.trial,
                "rung": self.rung,
                "fidelity": self.fidelity,
                "values": [value if math.isfinite(value) else None for value in self.values],
                "stderrs": self.stderrs,
                "verdict": self.decision.verdict,
                "reason": self.decision.reason,
            },
            allow_nan=False,
        ).encode()

    @classmethod
    def of(cls, fields: dict[str, Any]) -> "Record":
        """Make a record from the fields of a line. Raises KeyError, TypeError or ValueError when they do not fit."""
        return cls(
            int(fields["trial"]),
            int(fields["rung"]),
            float(fields["fidelity"]),
            tuple(math.nan if value is None else float(value) for value in fields["values"]),
            tuple(float(stderr) for stderr in fields["stderrs"]),
            Decision(Verdict(fields["verdict"]), str(fields["reason"])),
        )


@final
class RungStore:
    """The rung records of a study, in `rungs.jsonl` in its folder, in the order they were decided.

    A record is one write to a file opened for appending, so writers need no lock. One that died inside its write
    leaves a torn line, which readers pass over; a record starts a line of its own, so it is never glued to one.

    Args:
        folder: the study's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = Path(folder) / FILE

    def __repr__(self) -> str:
        return f"RungStore({str(self.path.parent)!r})"

    def append(self, record: Record) -> None:
        """Write a record to disk. Raises OSError as the file system reports it."""
        line = b"\n" + record.to_line() + b"\n"
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, "a rung record was written in part", str(self.path))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def read(self, offset: int = 0) -> tuple[Sequence[Record], int]:
        """Return the records from byte `offset` on, and the offset to read on from.

        A last line without its end is left for the next call. Raises SweepError for a line of other JSON.
        """
        try:
            with self.path.open("rb") as stream:
                stream.seek(offset)
                text = stream.read()
        except FileNotFoundError:
            return [], offset
        whole = text[: text.rfind(b"\n") + 1]
        records = [record for line in whole.split(b"\n") if (record := self._parse(line)) is not None]
        return records, offset + len(whole)

    def _parse(self, line: bytes) -> Record | None:
        try:
            fields = json.loads(line)
        except ValueError:
            return None
        try:
            return Record.of(fields)
        except (KeyError, TypeError, ValueError) as error:
            shown = line.decode(errors="replace")[:80]
            raise SweepError(f"{self.path} holds a line that is no rung record: {shown}") from error
