import torch
from torch import nn

from kmr.data import Split
from kmr.instantiations.quantization import DynamicQuantization, StaticQuantization, WeightQuantization
from kmr.meters import BOPs


def test_macs_times_both_widths_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False)).eval()
    inputs = torch.randn(5, 4)
    bops = BOPs(example_inputs=inputs)
    assert bops(model).value == (12 + 6) * 32 * 32
    rule = WeightQuantization(layers=("0", "2"))
    assert bops(rule(model, "quantize.bits@0", 4)).value == 12 * 4 * 32 + 6 * 32 * 32
    static = StaticQuantization(data=Split((inputs, torch.zeros(5).long()), 5), weight_bits=2)
    assert bops(static(model, "static.bits", 8)).value == (12 + 6) * 2 * 8
    assert bops(DynamicQuantization()(model, "dynamic.bits", 4)).value == (12 + 6) * 4 * 4
