"""Every architecture of the conformance benchmark: what the rule makes of it, row by row."""

import importlib.util
import warnings

import pytest

from benchmarks.architectures import LANGUAGE, NAMES, make
from benchmarks.conformance import INFEASIBLE, NARROWED, WORKS, judge

FIXED_WIDTH = {
    "resnet (shortcut A)": "stem.0: left whole",
    "hard-coded view": "more: left whole",
    "split": "stem: left whole",
    "functional ops": "conv: left whole",
    "tied autoencoder": "encoder: left whole",
    "channel shuffle": "grouped: left whole",
    "lstm": "recurrent layers keep their width",
    "gru": "recurrent layers keep their width",
    "mlp-mixer": "tokens.2: left whole",
    "llama (transformers)": "k_proj",
}
IMPOSSIBLE = {"only hard-coded views": "does not run"}


@pytest.mark.parametrize("name", NAMES)
def test_each_architecture_works_or_says_why_not(name: str) -> None:
    if name in LANGUAGE and importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed: pip install kmr-sweeps[models]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what importing transformers says of other packages
        case = make(name)
    row = judge(name, case, baseline=False)
    if name in IMPOSSIBLE:
        assert (row.status, row.left) == (INFEASIBLE, row.parameters)
        assert IMPOSSIBLE[name] in row.why
    elif name in FIXED_WIDTH:
        assert row.status == NARROWED
        assert FIXED_WIDTH[name] in row.why
        assert row.left < row.parameters
    else:
        assert (row.status, row.why) == (WORKS, "")
        assert row.left < 0.75 * row.parameters


def test_there_are_enough_of_them() -> None:
    assert len(NAMES) - len(LANGUAGE) >= 25
    assert len(NAMES) - len(LANGUAGE) - len(FIXED_WIDTH) - len(IMPOSSIBLE) >= 20
