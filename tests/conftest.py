"""What every test gets: one torch thread, a Ctrl-C that is heard, and the folder of real data where there is one."""

import os
import signal
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started deaf to it


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder that KMR_DATA names; tests that need its CIFAR-10 and weights are skipped without it."""
    folder = os.environ.get("KMR_DATA")
    if folder is None or not (Path(folder) / "cifar10" / "test.parquet").is_file():
        pytest.skip("KMR_DATA names no folder with cifar10/test.parquet")
    return Path(folder)
