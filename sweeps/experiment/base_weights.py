"""Base weights: loaded from a file, or trained once and cached."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kmr.data import Data
from sweeps.errors import SweepError
from sweeps.experiment.config import Config
from sweeps.experiment.instantiate import part


def with_weights(
    model: nn.Module, config: Config, plain: Mapping[str, Any], data: Data, trusted: tuple[str, ...]
) -> nn.Module:
    """Load the model's weights from a file, or train it as the config says; studies in one folder share the result.

    Raises:
        SweepError: the file is missing, or the file or the training does not fit the model.
    """
    if config.weights is not None:
        return _load_weights(model, Path(config.weights).expanduser())
    if plain["train"] is None:
        return model
    recipe = [plain[name] for name in ("model", "train", "data", "batch_size", "seed")]
    recipe += [data.fingerprint(), torch.__version__]
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()
    cached = Path(config.output_dir) / ".cache" / f"base-{key[:32]}.safetensors"
    if cached.is_file():
        try:
            return _load_weights(model, cached)
        except SweepError as error:
            print(f"training again: {error}", flush=True)
    train = part("train", plain["train"], trusted, data=data.train, seed=config.seed)
    print(f"training the base model: {train.total_steps} steps", flush=True)
    try:
        model = train(model)
    except (RuntimeError, ValueError, IndexError) as error:
        why = " ".join(str(error).split())[:300]
        raise SweepError(f"train: the loss does not fit the model and its targets: {why}") from error
    from safetensors.torch import save_model

    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_suffix(".part")
        save_model(model, str(aside))
        aside.replace(cached)
    except OSError as error:
        raise SweepError(f"cannot write {cached}: {error.strerror}; choose another output_dir") from error
    return model


def _load_weights(model: nn.Module, path: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    if not path.is_file():
        raise SweepError(f"no weights at {path}: set weights to a .safetensors file (KMR_DATA names the data folder)")
    try:
        load_model(model, str(path))
    except SafetensorError as error:
        raise SweepError(f"{path} is not a safetensors file: {error}") from error
    except RuntimeError as error:
        raise SweepError(f"{path} does not fit the model: {' '.join(str(error).split())[:300]}") from error
    return model
