import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from kmr.core import KMRError
from kmr.data import Split, as_data, forward


class Squares(Dataset):
    """(i, i²) for i < n."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(i)]), i * i


@pytest.mark.parametrize("source", [(torch.arange(7.0)[:, None], torch.arange(7) ** 2), Squares(7)])
def test_batches_come_in_order_or_shuffled_by_a_seed(source) -> None:
    split = Split(source, batch_size=3)
    in_order = [targets.tolist() for _, targets in split.batches()]
    assert in_order == [[0, 1, 4], [9, 16, 25], [36]]
    shuffled, again, other = (torch.cat([t for _, t in split.batches(seed)]).tolist() for seed in (1, 1, 2))
    assert shuffled == again != other
    assert sorted(shuffled) == [target for batch in in_order for target in batch]
    inputs = torch.cat([x for x, _ in split.batches(1)])
    assert (inputs[:, 0] ** 2).tolist() == shuffled, "inputs and targets stay together"


def test_reading_a_dataset_does_not_move_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    list(Split(Squares(4), 2).batches())
    list(Split(Squares(4), 2).batches(shuffle_seed=3))
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ((torch.zeros(3), torch.zeros(2)), "3 inputs but 2 targets"),
        ((torch.zeros(0), torch.zeros(0)), "no samples"),
        ("train.csv", "not str"),
        (7, "int"),
    ],
)
def test_a_split_that_is_none_is_refused(source, named) -> None:
    with pytest.raises(KMRError, match=named):
        Split(source)


def test_the_fingerprint_follows_the_samples() -> None:
    x, y = torch.arange(6.0), torch.arange(6)
    assert Split((x, y)).fingerprint() == Split((x.clone(), y), batch_size=2).fingerprint()
    assert Split((x, y)).fingerprint() != Split((x + 1, y)).fingerprint()
    assert Split((x, y)).fingerprint() != Split((x, y + 1)).fingerprint()
    assert Split(Squares(5)).fingerprint() != Split(Squares(6)).fingerprint()


def test_as_data_takes_pairs_and_datasets_and_names_what_is_missing() -> None:
    pair = (torch.zeros(4, 2), torch.zeros(4))
    data = as_data({"train": pair, "validation": TensorDataset(*pair), "test": Split(pair, 2)}, batch_size=3)
    assert [split.batch_size for split in (data.train, data.validation, data.test)] == [3, 3, 2]
    with pytest.raises(KMRError, match="test; it has train, validation"):
        as_data({"train": pair, "validation": pair}, 3)
    with pytest.raises(KMRError, match="it has list"):
        as_data([pair], 3)


def test_forward_takes_tensors_tuples_and_mappings_and_reads_structured_outputs() -> None:
    class Add(nn.Module):
        def forward(self, a, b):
            return a + b

    class Logits(nn.Module):
        def forward(self, x):
            return type("Output", (), {"logits": x * 2})()

    class Several(nn.Module):
        def forward(self, x):
            return x * 3, None

    one = torch.ones(2)
    assert forward(Add(), (one, one)).tolist() == [2, 2]
    assert forward(Add(), {"b": one, "a": one}).tolist() == [2, 2]
    assert forward(Logits(), one).tolist() == [2, 2]
    assert forward(Several(), one).tolist() == [3, 3]
    with pytest.raises(KMRError, match="str"):
        forward(type("Text", (nn.Module,), {"forward": lambda self, x: "text"})(), one)


def test_first_inputs_are_one_batch_of_the_count_asked() -> None:
    split = Split((torch.arange(6.0)[:, None], torch.arange(6)), batch_size=4)
    assert split.first_inputs().shape == (1, 1)
    assert split.first_inputs(3)[:, 0].tolist() == [0, 1, 2]
    assert len(split.subset(2)) == 2
    assert split.subset(99) is split


def test_preprocessing_goes_with_the_data() -> None:
    pair = (torch.zeros(2, 1), torch.zeros(2))
    splits = {"train": pair, "validation": pair, "test": pair}
    assert dict(as_data(splits, 2).preprocessing) == {}
    told = as_data({**splits, "preprocessing": {"mean": [0.5]}}, 2)
    assert told.preprocessing == {"mean": [0.5]}
    assert told.fingerprint() == as_data(splits, 2).fingerprint()
    with pytest.raises(KMRError, match="preprocessing must be a dict"):
        as_data({**splits, "preprocessing": "divide"}, 2)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_a_split_is_divided_by_a_seed_without_copying(as_dataset: bool) -> None:
    x = torch.arange(10.0)[:, None]
    source = torch.utils.data.TensorDataset(x, x) if as_dataset else (x, x)
    whole = Split(source, 4)
    rest, aside = whole.divide(0.3, seed=1)
    values = [torch.cat([inputs for inputs, _ in part.batches()]).flatten().tolist() for part in (rest, aside)]
    assert [len(rest), len(aside)] == [7, 3] == [len(part) for part in values]
    assert sorted(values[0] + values[1]) == list(range(10))
    assert rest.source[0] is whole.source[0] if not as_dataset else rest.source is whole.source
    assert [part.fingerprint() for part in whole.divide(0.3, seed=1)] == [rest.fingerprint(), aside.fingerprint()]
    assert rest.fingerprint() != aside.fingerprint()
    assert torch.equal(next(rest.subset(2).batches())[0], next(rest.batches())[0][:2])
    for share in (0.0, 1.0):
        with pytest.raises(KMRError, match="share"):
            whole.divide(share)


@pytest.mark.parametrize("as_dataset", [False, True])
def test_numbered_batches_name_the_places_of_their_samples(as_dataset: bool) -> None:
    x = torch.arange(10.0)[:, None]
    _, aside = Split(torch.utils.data.TensorDataset(x, x) if as_dataset else (x, x), 4).divide(0.5)
    in_order = torch.cat([inputs for inputs, _ in aside.batches()])
    for places, inputs, _ in aside.numbered_batches(shuffle_seed=3):
        assert torch.equal(inputs, in_order[places])


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("as_dict", [True, False])
def test_a_list_of_samples_is_a_dataset_however_many_it_holds(as_dict: bool, count: int) -> None:
    pairs = [(torch.tensor([float(i)]), i) for i in range(count)]
    samples = [{"x": x, "labels": y} for x, y in pairs] if as_dict else pairs
    data = as_data(dict.fromkeys(("train", "validation", "test"), samples), 8)
    inputs, targets = next(data.test.batches())
    assert targets.tolist() == list(range(count))
    assert (inputs["x"] if as_dict else inputs)[:, 0].tolist() == targets.tolist()


def test_a_split_that_does_not_fit_is_named() -> None:
    short = (torch.randn(5, 2), torch.arange(4))
    good = (torch.randn(5, 2), torch.arange(5))
    with pytest.raises(KMRError, match="validation: a split has 5 inputs but 4 targets"):
        as_data({"train": good, "validation": short, "test": good}, 8)
