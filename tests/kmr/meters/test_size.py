import os

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from kmr.artifact.packing import pack, write
from kmr.core import KMRError, measure
from kmr.meters import NonzeroParameters, Parameters, WeightBytes
from kmr.representation.weights import Grid, WeightState, write_weight

torch.set_num_threads(1)


def layer(keep=None, grid=None):
    linear = nn.Linear(6, 4)
    with torch.no_grad():
        linear.weight.fill_(1.0)
        linear.bias.copy_(torch.tensor([0.0, 1, 2, 3]))
    write_weight(linear, WeightState(linear.weight.detach(), grid, keep))
    return linear


def test_parameters_by_hand():
    keep = torch.eye(4, 6) > 0
    grid = Grid(torch.ones(4, 1), torch.zeros(4, 1), 2)
    assert Parameters()(layer()).value == 4 * 6 + 4
    assert Parameters()(layer(keep, grid)).value == 4 * 6 + 4
    assert NonzeroParameters()(layer()).value == 4 * 6 + 4, "a value that merely is 0 counts"
    assert NonzeroParameters()(layer(keep, grid)).value == 4 + 4
    assert Parameters()(nn.BatchNorm1d(5)).value == 10


def test_tied_parameters_count_once():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    shared = nn.Sequential(model, model)
    readings = measure(shared, [Parameters(), NonzeroParameters()])
    assert [r.value for r in readings.values()] == [20, 20]


def test_a_weight_that_several_parameters_make_counts_as_the_weight():
    assert Parameters()(parametrizations.weight_norm(nn.Linear(6, 4))).value == 4 * 6 + 4


@pytest.mark.parametrize("bits", [None, 1, 3, 8])
@pytest.mark.parametrize("density", [None, 0.1, 0.6])
def test_weight_bytes_are_those_of_the_file(bits, density, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 20))
    for linear in (model[0], model[2]):
        grid = None if bits is None else Grid(torch.tensor(0.05), torch.tensor(float(2**bits // 2)), bits)
        keep = None if density is None else torch.rand_like(linear.weight) < density
        write_weight(linear, WeightState(linear.weight.detach(), grid, keep))
    write(pack(model), tmp_path / "m.safetensors")
    assert WeightBytes()(model).value == os.path.getsize(tmp_path / "m.safetensors")


def test_weight_bytes_by_hand(tmp_path):
    model = nn.Linear(1000, 1)
    write_weight(model, WeightState(torch.ones(1, 1000), Grid(torch.tensor(1.0), torch.tensor(0.0), 3)))
    write(pack(model), tmp_path / "m.safetensors")
    header = int.from_bytes((tmp_path / "m.safetensors").read_bytes()[:8], "little")
    # The header and its length; 1000 codes of 3 bits; one scale and one bias of 32 bits.
    assert WeightBytes()(model).value == 8 + header + 375 + 4 + 4


def test_a_model_that_hides_its_weights_is_refused():
    class Hidden(nn.Module):
        def get_extra_state(self):
            return b"weights"

    for meter in (Parameters(), NonzeroParameters(), WeightBytes()):
        with pytest.raises(KMRError, match="cannot count or store"):
            meter(nn.Sequential(Hidden()))
