from importlib.util import find_spec

import pytest
from torch import nn

import kmr.core
from kmr.artifact.classes import MOVED, class_of, is_buildable, name_of
from kmr.core import KMRError
from kmr.representation.early_exits import EarlyExits


def test_a_class_has_one_name_now_and_is_found_by_its_former_one() -> None:
    assert class_of("kmr.exits:EarlyExits") is class_of(name_of(EarlyExits)) is EarlyExits
    assert name_of(EarlyExits) == "kmr.representation.early_exits:EarlyExits"


@pytest.mark.parametrize("former", MOVED)
def test_what_moved_is_not_where_it_was(former: str) -> None:
    assert find_spec(former) is None
    assert find_spec(MOVED[former]) is not None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("os:PathLike", "outside torch.nn and kmr"),
        ("kmr.exits:Exits", "there is no class kmr.exits:Exits"),
        ("kmr.nowhere:Exits", "there is no class"),
        ("kmr.core.knob:Knob", "is no module class"),
        ("kmr.representation.early_exits:nn.Module.__class__", "is no module class"),
    ],
)
def test_other_names_are_refused(name: str, said: str) -> None:
    with pytest.raises(KMRError, match=said):
        class_of(name)


def test_only_module_classes_at_the_top_of_ours_are_buildable() -> None:
    class Local(nn.Linear):
        pass

    assert is_buildable(nn.Linear)
    assert is_buildable(EarlyExits)
    assert not is_buildable(Local)
    assert not is_buildable(kmr.core.Knob)
