"""Tables in place of training: known readings for every vector of a space."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pandas as pd

from kmr.core import Reading, Value
from sweeps.errors import SweepError
from sweeps.search.problem import Params, StaticCosts
from sweeps.search.space import Space

GivenReadings: TypeAlias = Mapping[str, float | Reading]
"""Readings by meter; a `Reading` has a standard error."""
Table: TypeAlias = Mapping[tuple[Value, ...], GivenReadings] | pd.DataFrame


@dataclass(frozen=True)
class TableLookup:
    """Lookup of a vector's row by the values of its knobs; a vector without a row raises SweepError."""

    knobs: tuple[str, ...]
    rows: Mapping[Hashable, GivenReadings] = field(repr=False)

    def __call__(self, params: Params) -> GivenReadings:
        key = _key(tuple(params[name] for name in self.knobs))
        if key not in self.rows:
            raise SweepError(f"the table has no row for {dict(params)}: add it, or narrow the space")
        return self.rows[key]


def value_of(reading: float | Reading) -> float:
    """Return the value alone."""
    return float(reading.value if isinstance(reading, Reading) else reading)


def as_function(table: Table, space: Space) -> TableLookup:
    """Return the function that looks a vector up.

    Args:
        table: a data frame with a column for each knob and meter, or readings by the tuples of values in the order of
            the space.
        space: names the knobs.

    Raises:
        SweepError: the table is neither, or lacks a knob.
    """
    rows: Mapping[Hashable, GivenReadings]
    if isinstance(table, pd.DataFrame):
        missing = [name for name in space if name not in table.columns]
        if missing:
            raise SweepError(
                f"the table has no column {', '.join(missing)}: it has {', '.join(map(str, table.columns))}"
            )
        meters = table.drop(columns=list(space)).select_dtypes("number").to_dict("records")
        keys = table[list(space)].itertuples(index=False, name=None)
        rows = {_key(key): {str(n): float(v) for n, v in row.items()} for key, row in zip(keys, meters, strict=True)}
    elif isinstance(table, Mapping):
        rows = {_key(key): readings for key, readings in table.items()}
    else:
        raise SweepError(f"evaluate must be a function, a data frame or a mapping, not {type(table).__name__}")

    return TableLookup(tuple(space), rows)


def columns(table: Any, space: Space, names: Sequence[str]) -> StaticCosts:
    """Return the function that reads only these meters of a table.

    Raises:
        SweepError: `table` is a function, not a table.
    """
    if callable(table):
        raise SweepError(
            f"static_costs={list(names)} names columns of a table, but evaluate is a function: pass a function here too"
        )
    look_up = as_function(table, space)

    def read(params: Params) -> Mapping[str, float]:
        readings = look_up(params)
        missing = [name for name in names if name not in readings]
        if missing:
            raise SweepError(
                f"static_costs: the table has no column {', '.join(missing)}: it has {', '.join(readings)}"
            )
        return {name: value_of(readings[name]) for name in names}

    return read


def _key(values: Sequence[Any]) -> Hashable:
    return tuple(round(value, 10) if isinstance(value, float) else value for value in values)
