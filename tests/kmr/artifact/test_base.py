"""Bases as users build them: in a wrapper, or with lazy layers."""

from pathlib import Path

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import KMRError
from kmr.data.description import describe_inputs

torch.set_num_threads(1)


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def parallel() -> nn.Module:
    return nn.DataParallel(plain())


def compiled() -> nn.Module:
    return torch.compile(plain(), backend="eager")


def both() -> nn.Module:
    return nn.DataParallel(compiled())


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.LazyLinear(2))


@pytest.mark.parametrize("build", [parallel, compiled, both])
def test_a_model_out_of_its_wrapper_is_loaded_over_a_base_in_it(build, tmp_path: Path) -> None:
    model, x = plain().eval(), torch.randn(3, 4)
    kmr.save(tmp_path / "saved", model, base=plain(), builder=Builder("torch.nn.Identity"))
    assert torch.equal(kmr.load(tmp_path / "saved", base=build)(x), model(x))


def test_lazy_layers_of_a_base_get_their_shapes_from_the_inputs_that_the_artifact_describes(tmp_path: Path) -> None:
    model, x = lazy(), torch.randn(3, 4)
    right = model.eval()(x)
    told = {"inputs": describe_inputs(x)}
    kmr.save(tmp_path / "saved", model, base=model, builder=Builder("torch.nn.Identity"), extra=told)
    given = lazy()
    assert torch.equal(kmr.load(tmp_path / "saved", base=given)(x), right)
    assert isinstance(given[0], nn.LazyLinear), "the given base is not changed"


def test_lazy_layers_without_a_description_are_refused_with_the_way_out(tmp_path: Path) -> None:
    model = lazy()
    model(torch.randn(3, 4))
    kmr.save(tmp_path / "saved", model, base=model, builder=Builder("torch.nn.Identity"))
    with pytest.raises(KMRError, match=r"lazy layers without shapes.*give base="):
        kmr.load(tmp_path / "saved", base=lazy)
