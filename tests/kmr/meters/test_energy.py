import pytest
import torch
from elsewhere import elsewhere
from torch import nn

from kmr.core import KMRError, NotHere
from kmr.meters import Energy
from kmr.meters.energy import rapl_counter


@pytest.fixture
def packages(tmp_path):
    for name, now in (("intel-rapl:0", 900_000), ("intel-rapl:1", 100_000), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{now}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000000\n")
    return tmp_path


def test_packages_are_summed_and_a_counter_that_starts_again_goes_on(packages):
    counter = rapl_counter(packages)
    assert counter() == 0
    (packages / "intel-rapl:1" / "energy_uj").write_text("350000")
    (packages / "intel-rapl:0:0" / "energy_uj").write_text("999")
    assert counter() == pytest.approx(0.25)
    (packages / "intel-rapl:0" / "energy_uj").write_text("100000")
    assert counter() == pytest.approx(0.45)


def test_the_reading_is_millijoules_of_a_pass(packages):
    class Burns(nn.Module):
        def forward(self, x):
            file = packages / "intel-rapl:1" / "energy_uj"
            file.write_text(str((int(file.read_text()) + 2000) % 1_000_000))
            return x

    meter = Energy(example_inputs=torch.zeros(1), powercap=str(packages), seconds=1e-9, blocks=3)
    reading = meter(Burns())
    assert reading.value == pytest.approx(2.0)
    assert reading.stderr == pytest.approx(0.0, abs=1e-9)


def test_without_a_counter_it_refuses(tmp_path, packages):
    with pytest.raises(NotHere, match="no RAPL counter"):
        Energy(example_inputs=torch.zeros(1), powercap=str(tmp_path / "nothing"))
    (packages / "intel-rapl:0" / "energy_uj").unlink()
    with pytest.raises(NotHere, match="energy cannot be counted"):
        Energy(example_inputs=torch.zeros(1), powercap=str(packages))
    if not torch.cuda.is_available():
        with pytest.raises(NotHere, match="NVML"):
            Energy(example_inputs=torch.zeros(1), device="cuda")
    with pytest.raises(KMRError, match="cpu or cuda"):
        Energy(example_inputs=torch.zeros(1), device="tpu")


def test_the_energy_of_another_device_is_not_taken_for_that_of_the_model(packages):
    meter = Energy(example_inputs=torch.zeros(1, 2), powercap=str(packages), seconds=1e-9, blocks=2)
    with elsewhere() as device, pytest.raises(KMRError, match="counts the energy of cpu, but the model runs on meta"):
        meter(nn.Linear(2, 2).to(device))
