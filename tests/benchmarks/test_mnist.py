import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image

from benchmarks.mnist import MEAN, STD, lenet5, lenet_300_100, mnist
from kmr.core import KMRError


def written(folder: Path, train: int, test: int) -> Path:
    """Image i is grey of value i all over, with label i mod 10."""
    for split, count in (("train", train), ("test", test)):
        rows = []
        for value in range(count):
            file = io.BytesIO()
            Image.new("L", (28, 28), value).save(file, "PNG")
            rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": value % 10})
        parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def test_the_splits_are_apart_and_normalised(tmp_path: Path) -> None:
    data = mnist(str(written(tmp_path, 12, 3)), train=8, validation=4, test=2)
    sizes = {name: tuple(inputs.shape) for name, (inputs, _) in data.items()}
    assert sizes == {"train": (8, 1, 28, 28), "validation": (4, 1, 28, 28), "test": (2, 1, 28, 28)}
    greys = {name: ((inputs[:, 0, 0, 0] * STD + MEAN) * 255).round().int() for name, (inputs, _) in data.items()}
    assert sorted([*greys["train"].tolist(), *greys["validation"].tolist()]) == list(range(12))
    assert all(torch.equal(greys[name] % 10, targets.int()) for name, (_, targets) in data.items())
    with pytest.raises(KMRError, match="fewer"):
        mnist(str(tmp_path), train=10, validation=4)
    with pytest.raises(KMRError, match=r"no MNIST at"):
        mnist(str(tmp_path / "elsewhere"))


def test_the_networks_have_the_published_sizes() -> None:
    x = torch.zeros(2, 1, 28, 28)
    for build, count in ((lenet_300_100, 266_610), (lenet5, 431_080)):
        model = build()
        assert sum(p.numel() for p in model.parameters()) == count
        assert model(x).shape == (2, 10)
