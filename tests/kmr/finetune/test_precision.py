"""The precision of training, beside the type of the weights."""

from functools import partial

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import FineTune, mean_squared_error


def line() -> Split:
    """y = 3x − 1."""
    x = torch.linspace(-1, 1, 64)[:, None]
    return Split((x, 3 * x - 1), batch_size=16)


def adam(rate: float):
    return partial(torch.optim.Adam, lr=rate)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16"), ("float16", "float16")])
def test_half_precision_trains_weights_that_stay_float32(precision, dtype) -> None:
    seen = []

    class Watched(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(super().forward(x).dtype)
            return super().forward(x)

    torch.manual_seed(0)
    model = Watched(1, 1)
    FineTune(data=line(), loss=mean_squared_error, epochs=40, optimizer=adam(0.1), precision=precision)(model)
    assert set(seen) == {getattr(torch, dtype)}
    assert model.weight.dtype == torch.float32
    assert model.weight.item() == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_weights_of_another_type_are_trained_in_it(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(1, 1, dtype=dtype)
    FineTune(data=line(), loss=mean_squared_error, epochs=40, optimizer=adam(0.1))(model)
    assert model.weight.dtype == dtype
    assert model.weight.item() == pytest.approx(3, abs=0.1)


def test_weights_in_float16_are_refused_where_gradients_are_scaled() -> None:
    with pytest.raises(KMRError, match=r"precision fp16 scales gradients.*set precision to fp32 or bf16"):
        FineTune(data=line(), loss=mean_squared_error, steps=1, precision="fp16")(nn.Linear(1, 1).half())


def test_a_layer_that_has_no_kernel_of_a_precision_is_named_with_the_way_out() -> None:
    class Recurrent(nn.LSTM):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("could not create a primitive descriptor for the LSTM forward propagation primitive")
            return super().forward(x)[0]

    recipe = FineTune(data=line(), loss=mean_squared_error, steps=1, precision="bf16")
    with pytest.raises(KMRError, match=r"cannot train this model in precision bf16 on cpu: could not create.*fp32"):
        recipe(nn.Sequential(Recurrent(1, 2, batch_first=True), nn.Linear(2, 1)))
