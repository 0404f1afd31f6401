import hashlib
from typing import Any

import pytest

from kmr.cache import key_of
from kmr.core import KMRError


def test_a_key_is_the_sha256_of_the_parts_as_sorted_json() -> None:
    text = '{"bits":8,"moves":[["prune",0.1],null],"name":"\\u00e9"}'
    assert key_of(name="é", moves=(("prune", 0.1), None), bits=8) == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_names_does_not_matter() -> None:
    assert key_of(a=1, b={"x": 1, "y": 2}) == key_of(b={"y": 2, "x": 1}, a=1)


def test_values_that_differ_have_keys_that_differ() -> None:
    values: list[Any] = [1, 1.0, True, "1", None, [1], {"1": 1}, 0.1, 0.1 + 2**-56, -0.0, 0.0, 2**60, 2**60 + 1, "", []]
    assert len({key_of(value=value) for value in values}) == len(values)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "value is nan"),
        ([1, float("inf")], r"value\[1\] is inf"),
        ({"x": {1: 2}}, "value.x has the key 1"),
        ({3}, "a set"),
        (b"x", "a bytes"),
        (object(), "a object"),
        (1j, "a complex"),
    ],
)
def test_what_json_cannot_carry_is_refused(value: object, message: str) -> None:
    with pytest.raises(KMRError, match=message):
        key_of(value=value)
