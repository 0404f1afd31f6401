"""Energy of a forward pass, from hardware counters: RAPL for processors, NVML for NVIDIA devices.

The meter reads a counter before and after many passes. Without a counter it raises, because energy computed from time
and nominal power is just latency in another unit.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any, final

from kmr.core import Cost, KMRError, NotHere, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import Deployment, batch_of
from kmr.runtimes import Eager, Runtime, Session

POWERCAP = Path("/sys/class/powercap")

Counter = Callable[[], float]
"""A function that returns joules since an arbitrary time."""


@final
@dataclass(frozen=True, kw_only=True)
class Energy(Cost):
    """The energy of one forward pass in millijoules, for the whole processor package or device, including idle power.

    Unit: mJ. Range: [0, ∞). Direction: minimize. Source: RAPL or NVML counters.

    The standard error is the standard error of the mean over blocks of passes.

    Args:
        example_inputs: the batch to run, unless `batch` is given.
        calibration: data on which the runtime may measure activation ranges.
        runtime: the runtime to run the model in.
        device: the device that the runtime runs on: `cpu` (RAPL) or `cuda` (NVML, device 0).
        batch: samples in the batch, repeating those of the example.
        threads: CPU threads.
        blocks: number of blocks of passes, each with its own reading of the counter.
        seconds: duration of each block; counters tick about every millisecond (RAPL) to 100 ms (NVML).
        powercap: folder of RAPL's counters.

    Raises:
        NotHere: no counter can be read.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    calibration: Split | None = field(default=None, repr=False, compare=False)
    runtime: Runtime = field(default_factory=Eager)
    device: str = "cpu"
    batch: int | None = None
    threads: int = 1
    blocks: int = 5
    seconds: float = 0.5
    powercap: str = str(POWERCAP)
    name: str = "energy_mj"
    unit: str = field(init=False, default="mJ")

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise KMRError(f"device must be cpu or cuda, not {self.device!r}")
        if self.blocks < 2 or not self.seconds > 0:
            raise KMRError(f"energy needs blocks >= 2 and seconds > 0, not {self.blocks} and {self.seconds}")
        self.runtime.require()
        counter = nvml_counter() if self.device == "cuda" else rapl_counter(Path(self.powercap))
        object.__setattr__(self, "_counter", counter)
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        object.__setattr__(self, "_deployment", deployment)

    @property
    def view(self) -> Deployment:
        """The deployment that prepares the model."""
        return self._deployment  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: Session) -> Reading:
        if seen.device.type != self.device:
            raise KMRError(
                f"meter {self.name} counts the energy of {self.device}, but the model runs on {seen.device}: "
                f"set the meter's device to {seen.device.type}"
            )
        call = seen.bind(batch_of(self.example_inputs, self.batch))
        with seen.pinned():
            call()
            each = [_block(call, self._counter, self.seconds) for _ in range(self.blocks)]  # type: ignore[attr-defined]
        return Reading(1000 * mean(each), 1000 * stdev(each) / math.sqrt(len(each)))


def _block(call: Callable[[], Any], counter: Counter, seconds: float) -> float:
    start, before, passes = time.perf_counter(), counter(), 0
    while passes == 0 or time.perf_counter() - start < seconds:
        call()
        passes += 1
    return (counter() - before) / passes


def rapl_counter(root: Path) -> Counter:
    """Return a counter of all processor packages' joules, from Linux's powercap files.

    Raises:
        NotHere: the files are missing, or cannot be read.
    """
    packages = sorted(path for path in root.glob("intel-rapl:*") if path.name.count(":") == 1)
    if not packages:
        raise NotHere(f"energy cannot be counted: no RAPL counter in {root} (virtual machines rarely have one)")
    try:
        last = [_microjoules(path / "energy_uj") for path in packages]
        turns = [_microjoules(path / "max_energy_range_uj") for path in packages]
    except (OSError, ValueError) as error:
        raise NotHere(f"energy cannot be counted: {error} (RAPL is readable by root, or after chmod a+r)") from None
    total = [0.0]

    def read() -> float:
        for index, path in enumerate(packages):
            now = _microjoules(path / "energy_uj")
            # The counter wraps around to 0 at the end of its range.
            total[0] += (now - last[index] if now >= last[index] else now + turns[index] - last[index]) / 1e6
            last[index] = now
        return total[0]

    return read


def nvml_counter() -> Counter:
    """Return a counter of the first NVIDIA device's joules.

    Raises:
        NotHere: the device or `nvidia-ml-py` is missing, or the device has no counter.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(device)
    except Exception as error:  # NVML's errors are of a class that may not be importable
        raise NotHere(f"energy cannot be counted: no NVML counter ({type(error).__name__}: {error})") from None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(device)) / 1000


def _microjoules(path: Path) -> int:
    return int(path.read_text())
