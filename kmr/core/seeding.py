"""Random generators seeded for one block of code and restored after it."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def isolated_rng(seed: int) -> Iterator[None]:
    """Run the body with Python's, NumPy's and torch's generators seeded, then restore their states."""
    python_state = random.getstate()
    numpy_random = _numpy_random()
    numpy_state = None if numpy_random is None else numpy_random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if torch.accelerator.is_available():
            torch.manual_seed(seed)
        else:  # the same on the CPU, without the stack trace that torch records for accelerators not yet initialised
            torch.default_generator.manual_seed(seed)
        random.seed(seed)
        if numpy_random is not None:
            numpy_random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(python_state)
            if numpy_random is not None:
                numpy_random.set_state(numpy_state)


def _numpy_random() -> Any:
    try:
        import numpy
    except ImportError:  # torch runs without NumPy
        return None
    return numpy.random
