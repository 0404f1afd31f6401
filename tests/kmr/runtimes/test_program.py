import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data.description import describe_inputs, described_inputs
from kmr.representation.early_exits import EarlyExits
from kmr.representation.weights import WeightState, write_weight
from kmr.runtimes.program import Signature, to_program

NESTED = {"a": torch.zeros(2, 3), "b": (torch.ones(2, 1, dtype=torch.long), None), "c": 4}


def test_a_signature_takes_inputs_apart_and_puts_them_together():
    signature = Signature.of(NESTED)
    assert signature.names == ("a", "b_0")
    tensors = signature.flatten(NESTED)
    again = signature.restore([tensor + 1 for tensor in tensors])
    assert torch.equal(again["a"], torch.ones(2, 3))
    assert torch.equal(again["b"][0], torch.full((2, 1), 2))
    assert again["b"][1] is None
    assert again["c"] == 4
    assert Signature.of(torch.zeros(1)).names == ("input",)
    assert Signature.of((torch.zeros(1), torch.zeros(1))).names == ("input_0", "input_1")
    with pytest.raises(KMRError, match="takes 2 tensors"):
        signature.flatten(torch.zeros(1))


def test_described_inputs_have_the_form_of_the_described():
    again = described_inputs(describe_inputs(NESTED))
    assert describe_inputs(again) == describe_inputs(NESTED)
    assert again["b"][0].dtype == torch.long
    with pytest.raises(KMRError, match="invalid description of inputs"):
        described_inputs({"what": 1})


class TakesTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x, scale):
        return self.linear(x) * scale


def test_a_program_takes_any_number_of_samples_and_masks_are_in_its_weights():
    model = TakesTwo()
    write_weight(model.linear, WeightState(model.linear.weight.detach(), keep=torch.eye(2, 3) > 0))
    example = {"scale": torch.full((1, 1), 2.0), "x": torch.ones(1, 3)}
    program, signature, _ = to_program(model, example)
    assert hasattr(model.linear, "parametrizations")
    for count in (1, 2, 5):
        x = torch.randn(count, 3)
        scale = torch.rand(count, 1)
        found = program.module()(*signature.flatten({"scale": scale, "x": x}))
        torch.testing.assert_close(found, model(x, scale))


def test_what_cannot_be_traced_says_why():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(KMRError, match=r"torch\.export cannot trace"):
        to_program(Branches(), torch.zeros(1, 2))

    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 3) + 0

    with pytest.raises(KMRError, match="batches of any size"):
        to_program(Fixed(), torch.zeros(1, 3))


def test_a_model_that_samples_leave_early_is_refused_in_a_line():
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(KMRError, match=r"early exits.*kmr.load"):
        to_program(EarlyExits(body, [nn.Linear(4, 3)], ["1"], 0.5), torch.zeros(2, 4))
