"""Provenance: the versions, the commit and the machine behind the numbers."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from kmr.core.device import accelerators
from kmr.meters import hardware


def versions() -> dict[str, str]:
    """Return the versions of the packages that affect the readings."""
    names = (
        "kmr-sweeps", "torch", "torch-pruning", "optuna", "numpy", "safetensors", "mlflow", "hydra-core", "onnx",
        "onnxruntime",
    )  # fmt: skip
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the current repository, marked if there are changes; None outside a repository."""
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return told.stdout.strip() or None


def environment() -> dict[str, str]:
    """Return the properties of the machine that affect timings."""
    return {
        "cpu": hardware(torch.device("cpu")),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "system": platform.platform(),
        **{name: hardware(torch.device(name)) for name in accelerators()},
    }
