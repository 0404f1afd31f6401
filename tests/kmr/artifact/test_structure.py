import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.artifact.attributes import UNDESCRIBED, decode, encode, same
from kmr.artifact.rebuilding import rebuild
from kmr.artifact.structure import describe
from kmr.core import KMRError
from kmr.representation.weights import WeightState, write_weight

torch.set_num_threads(1)


class Scale(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def times(factor):
    return Scale(lambda x: x * factor)


class Block(nn.Module):
    def __init__(self, inputs, outputs, factor=1.0):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else times(factor)
        self.sizes = (inputs, outputs)

    def forward(self, x):
        y = self.conv2(F.relu(self.bn1(self.conv1(x))))
        return y + self.shortcut(x) if x.shape == y.shape else y


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Block(3, 4, 2.0), Block(4, 4), Block(4, 6, 3.0))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 5)
        self.width = 6

    def forward(self, x):
        return self.head(self.pool(self.blocks(x)).flatten(1))


def check(model, base, x=None):
    """Rebuild over a base of other values, fill in the model's values, and compare what it computes."""
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    description = json.loads(json.dumps(describe(base, model)))
    rebuilt = rebuild(base, description)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    mine, theirs = model.state_dict(), rebuilt.state_dict()
    assert {n: (t.shape, t.dtype) for n, t in mine.items()} == {n: (t.shape, t.dtype) for n, t in theirs.items()}
    assert [n for n, _ in model.named_modules()] == [n for n, _ in rebuilt.named_modules()]
    assert [type(m).__name__ for m in model.modules()] == [type(m).__name__ for m in rebuilt.modules()]
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == [
        (n, p.requires_grad) for n, p in rebuilt.named_parameters()
    ]
    rebuilt.load_state_dict(mine)
    for one, other in zip(model.modules(), rebuilt.modules(), strict=True):
        hidden = {"_flat_weights", "_flat_weight_refs"} | vars(nn.Module()).keys()
        left, right = ({k: encode(v) for k, v in vars(m).items() if k not in hidden} for m in (one, other))
        assert left == right
        assert one.extra_repr() == other.extra_repr()
    if x is not None:
        for mode in (False, True):
            model.train(mode)
            rebuilt.train(mode)
            one, other = model(*x), rebuilt(*x)
            one, other = (y[0] if isinstance(y, tuple) else y for y in (one, other))
            assert torch.equal(one, other)
    return description, rebuilt


IMAGES = (torch.rand(2, 3, 8, 8),)


def narrow(layer, **sizes):
    """Cut a layer's tensors and attributes to these sizes, as a pruning library does."""
    fresh = type(layer)(**sizes)
    for name, parameter in fresh.named_parameters(recurse=False):
        setattr(layer, name, nn.Parameter(torch.randn_like(parameter)))
    for name, buffer in fresh.named_buffers(recurse=False):
        setattr(layer, name, buffer.clone())
    for name in sizes:
        if hasattr(layer, name) and not isinstance(getattr(layer, name), torch.Tensor) and name != "bias":
            setattr(layer, name, getattr(fresh, name))


def test_an_unchanged_model_has_no_differences():
    description, rebuilt = check(Net(), Net(), IMAGES)
    assert description == {"format": 1, "changes": []}
    assert isinstance(rebuilt, Net)


def test_pruned_channels():
    model = Net()
    for index, outputs in ((0, 4), (1, 4), (2, 6)):
        block = model.blocks[index]
        narrow(block.conv1, in_channels=block.conv1.in_channels, out_channels=2, kernel_size=3, padding=1, bias=False)
        narrow(block.bn1, num_features=2)
        narrow(block.conv2, in_channels=2, out_channels=outputs, kernel_size=3, padding=1)
    model.width = np.int64(4)
    description, rebuilt = check(model, Net(), IMAGES)
    assert type(rebuilt.width) is int
    assert len(description["changes"]) == 10
    assert {c["path"]: c for c in description["changes"]}["blocks.0.conv1"] == {
        "path": "blocks.0.conv1",
        "attributes": {"out_channels": 2},
        "parameters": {"weight": [[2, 3, 3, 3], "float32", True]},
    }


def test_factorised_layers_and_identities():
    model = Net()
    model.head = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 5))
    model.blocks[1] = nn.Identity()
    model.blocks[2].conv1 = nn.Sequential(nn.Conv2d(4, 2, 3, padding=1, bias=False), nn.Conv2d(2, 6, 1))
    check(model, Net(), IMAGES)


def test_a_removed_block_moves_the_next_one_up_with_its_own_code():
    model = Net()
    narrow(model.blocks[2].conv1, in_channels=3, out_channels=6, kernel_size=3, padding=1, bias=False)
    del model.blocks[0]
    del model.blocks[0]
    description, rebuilt = check(model, Net(), IMAGES)
    assert {"path": "blocks.0.shortcut", "like": "blocks.2.shortcut"} in description["changes"]
    assert float(rebuilt.blocks[0].shortcut(torch.ones(()))) == 3


def test_blocks_may_be_added_and_reordered():
    model = Net()
    model.blocks = nn.Sequential(model.blocks[0], copy.deepcopy(model.blocks[1]), model.blocks[1], model.blocks[2])
    model.extra = Block(3, 4, 2.0)
    check(model, Net(), IMAGES)
    plain = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model = nn.Sequential(plain[1], copy.deepcopy(plain[0]), copy.deepcopy(plain[2]))
    check(model, plain, (torch.randn(4, 3),))


@pytest.mark.parametrize(
    ("build", "small", "x"),
    [
        (lambda n: nn.Sequential(nn.Conv1d(2, n, 3), nn.GroupNorm(2, n)), (4, 8), (torch.randn(2, 2, 9),)),
        (lambda n: nn.Sequential(nn.ConvTranspose2d(3, n, 2), nn.BatchNorm2d(n)), (2, 4), IMAGES),
        (lambda n: nn.Sequential(nn.Embedding(7, n), nn.LayerNorm(n)), (3, 6), (torch.tensor([[1, 6]]),)),
        (lambda n: nn.LSTM(3, n, num_layers=2, bidirectional=True), (2, 5), (torch.randn(4, 2, 3),)),
        (lambda n: nn.GRU(3, n, batch_first=True), (2, 5), (torch.randn(4, 2, 3),)),
        (lambda n: nn.TransformerEncoderLayer(8, 2, n, 0.0, activation="gelu"), (4, 16), (torch.randn(4, 2, 8),)),
        (lambda n: nn.MultiheadAttention(8 * n, n), (1, 2), None),
        (lambda n: nn.Sequential(nn.Conv2d(3, n, 3, padding="same", padding_mode="reflect")), (2, 4), IMAGES),
    ],
)
def test_layers_of_every_kind_become_narrower_or_are_put_in_anew(build, small, x):
    check(build(small[0]), build(small[1]), x)
    model, base = nn.Sequential(build(small[0])), nn.Sequential(nn.Identity())
    check(model, base, x)


def test_the_root_itself_may_be_replaced():
    check(nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3)), nn.Linear(4, 3), (torch.randn(2, 4),))


def test_parameters_buffers_and_attributes_come_and_go():
    base, model = nn.Linear(4, 3), nn.Linear(4, 3, bias=False)
    check(model, base, (torch.randn(2, 4),))
    check(base, model, (torch.randn(2, 4),))
    model.weight.requires_grad_(False)
    model.register_buffer("steps", torch.tensor(3), persistent=False)
    model.register_buffer("none", None)
    model.note = {"a": (1, [2.5, None]), "b": float("inf")}
    model.bias = nn.Parameter(torch.zeros(3).double(), requires_grad=False)
    description, rebuilt = check(model.double(), base)
    assert "steps" in rebuilt._non_persistent_buffers_set
    assert rebuilt.note == {"a": (1, [2.5, None]), "b": float("inf")}
    assert type(rebuilt.note["a"]) is tuple
    _, back = check(nn.Linear(4, 3), rebuilt)
    assert not hasattr(back, "note")
    assert not list(back.buffers())
    assert description["format"] == 1
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    check(norm, nn.BatchNorm1d(3), (torch.randn(4, 3),))
    check(nn.BatchNorm1d(3), norm, (torch.randn(4, 3),))


def tied(same=True):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    if same:
        model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(("mine", "theirs"), [(True, True), (True, False), (False, True)])
def test_ties_are_those_of_the_model(mine, theirs):
    _, rebuilt = check(tied(mine), tied(theirs))
    assert (rebuilt[0].weight is rebuilt[1].weight) == mine
    smaller = tied(mine)
    smaller[0].weight = nn.Parameter(torch.randn(3, 4))
    smaller[1].weight = smaller[0].weight if mine else nn.Parameter(torch.randn(3, 4))
    _, rebuilt = check(smaller, tied(theirs))
    assert (rebuilt[0].weight is rebuilt[1].weight) == mine


@pytest.mark.parametrize(("mine", "theirs"), [(True, True), (True, False), (False, True)])
def test_modules_used_twice_are_those_of_the_model(mine, theirs):
    def build(once):
        first = Block(4, 4)
        return nn.Sequential(first, first if once else Block(4, 4))

    _, rebuilt = check(build(mine), build(theirs), (torch.randn(2, 4, 5, 5),))
    assert (rebuilt[0] is rebuilt[1]) == mine
    model = build(mine)
    model[0].conv1 = nn.Sequential(model[0].conv1, nn.Identity())
    _, rebuilt = check(model, build(theirs), (torch.randn(2, 4, 5, 5),))
    assert (rebuilt[0] is rebuilt[1]) == mine


def test_masked_models_are_described_without_their_masks():
    model = Net()
    write_weight(model.head, WeightState(model.head.weight.detach(), keep=torch.rand(5, 6) < 0.5))
    weight = model.head.weight.clone()
    assert describe(Net(), model)["changes"] == []
    assert torch.equal(model.head.weight, weight)
    assert describe(model, Net())["changes"] == []


class Foreign(nn.Module):
    pass


def test_what_cannot_be_described_is_refused_with_its_place():
    model = Net()
    model.pool = Foreign()
    with pytest.raises(KMRError, match=r"module pool .*Foreign.* nowhere"):
        describe(Net(), model)
    model = Net()
    model.blocks[0].shortcut = times(5.0)
    with pytest.raises(KMRError, match=r"blocks.0.shortcut .* attribute function"):
        describe(Net(), model)
    model = Net()
    model.head.register_forward_hook(lambda *_: None)
    with pytest.raises(KMRError, match=r"module head .* hooks"):
        describe(Net(), model)
    model = Net()
    model.head.note = object()
    with pytest.raises(KMRError, match="attribute note"):
        describe(Net(), model)
    model = Net()
    model.pool = nn.TransformerEncoderLayer(4, 1, 4, activation=lambda x: x)
    with pytest.raises(KMRError, match="attribute activation"):
        describe(Net(), model)


@pytest.mark.parametrize(
    "change",
    [
        {"path": "", "class": "os:system"},
        {"path": "", "class": "torch.nn.modules.linear:Linear.forward"},
        {"path": "", "class": "torch.nn.modules.linear:math"},
        {"path": "", "class": "torch.nn.modules.linear:Absent"},
        {"path": "", "class": "kmr.artifact.structure:importlib.import_module"},
        {"path": "blocks.9.x", "attributes": {"a": 1}},
        {"path": "head", "attributes": {"_forward_hooks": {"dict": {}}}},
        {"path": "head", "attributes": {"a": {"function": "nothing"}}},
        {"path": "head", "attributes": {"a": {"code": "x"}}},
        {"path": "head", "parameters": {"weight": [[1], "nothing", True]}},
        {"path": "head", "parameters": {"weight": 3}},
        {"path": "head", "like": "nowhere"},
        {"attributes": {}},
    ],
)
def test_descriptions_that_do_not_fit_or_name_other_code_are_refused(change):
    with pytest.raises(KMRError):
        rebuild(Net(), {"format": 1, "changes": [change]})


def test_another_format_is_refused():
    with pytest.raises(KMRError, match="format 2"):
        rebuild(Net(), {"format": 2, "changes": []})
    with pytest.raises(KMRError, match="does not fit"):
        rebuild(Net(), {"format": 1})


def test_plain_values_come_back_as_they_were():
    values = [
        None, True, 1, -2.5, "x", (), (1, (2, [3])), [1, "a"], {"k": (1,)}, torch.Size([2, 3]), torch.float16, F.gelu,
        F.relu, float("-inf"),
    ]  # fmt: skip
    for value in values:
        back = decode(json.loads(json.dumps(encode(value), allow_nan=False)))
        assert back == value
        assert type(back) is type(value)
    assert encode(np.float32(0.5)) == 0.5
    for value in (
        object(),
        torch.zeros(1),
        {1: 2},
        [object()],
        (len,),
        lambda: 1,
        torch.device("cpu"),
        {"a": object()},
    ):
        assert encode(value) is UNDESCRIBED


def test_functions_are_the_same_if_their_code_and_closures_are():
    def make(a, b=None):
        return lambda x, y=b: x * a

    assert same(make(1), make(1))
    assert not same(make(1), make(2))
    assert not same(make(1, 2), make(1, 3))
    assert not same(make(1), lambda x: x)
    assert same(make(make(1)), make(make(1)))
    assert not same(make(make(1)), make(make(2)))
    assert not same(torch.zeros(2), torch.zeros(3))
    assert not same(torch.zeros(2), torch.zeros(2).int())
    assert same(torch.device("cpu"), torch.device("cpu"))
    assert not same({1}, [1])
