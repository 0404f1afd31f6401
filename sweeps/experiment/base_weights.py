"""Base weights: loaded from a file, or trained once and cached."""

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from kmr.artifact import state_dict
from kmr.core import KMRError, device_of
from kmr.data import Data
from sweeps.errors import SweepError
from sweeps.experiment.config import Config
from sweeps.experiment.instantiate import part
from sweeps.experiment.study_code import code_of_parts


def with_weights(
    model: nn.Module, config: Config, plain: Mapping[str, Any], data: Data, trusted: tuple[str, ...]
) -> nn.Module:
    """Load the model's weights from a file, or train it as the config says; studies in one folder share the result.

    Raises:
        SweepError: the file is missing, or the file or the training does not fit the model.
    """
    if config.weights is not None:
        return load_weights(model, config.weights)
    if plain["train"] is None:
        return model
    recipe = [plain[name] for name in ("model", "train", "data", "batch_size", "seed")]
    recipe += [config.data_identity or data.fingerprint(), plain.get("task")]
    recipe += [code_of_parts(plain.get(name) for name in ("model", "train", "data", "task"))]
    if device_of(model).type != "cpu":
        recipe.append(device_of(model).type)
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()
    cached = Path(config.output_dir) / ".cache" / f"base-{key[:32]}.safetensors"
    if cached.is_file():
        try:
            _check(cached)
            return load_weights(model, cached)
        except SweepError as error:
            print(f"training again: {error}", flush=True)
    train = part("train", plain["train"], trusted, data=data.train, seed=config.seed)
    print(f"training the base model: {train.total_steps} steps", flush=True)
    try:
        model = train(model)
    except (RuntimeError, ValueError, IndexError) as error:
        why = " ".join(str(error).split())[:300]
        raise SweepError(f"train: the loss does not fit the model and its targets: {why}") from error
    _keep(model, cached)
    return model


def load_weights(model: nn.Module, path: str | Path) -> nn.Module:
    """Load a file's weights into a model, in place; what was taken off, left out or rounded is printed.

    Raises:
        SweepError: the file is missing or of another kind, or does not fit; the message names keys and shapes.
    """
    try:
        for note in state_dict.load_weights(model, path):
            print(f"weights: {note} ({path})", flush=True)
    except KMRError as error:
        raise SweepError(str(error)) from error
    return model


def _keep(model: nn.Module, cached: Path) -> None:
    """Write the trained base and its digest; another process that writes the same one does no harm."""
    from safetensors.torch import save_model

    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        aside = cached.with_name(f"{cached.stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        save_model(model, str(aside))
        digest = hashlib.sha256(aside.read_bytes()).hexdigest()
        aside.replace(cached)
        with_digest = cached.with_name(f"{cached.stem}-{os.getpid()}-{uuid.uuid4().hex[:8]}.part")
        with_digest.write_text(digest)
        with_digest.replace(cached.with_suffix(".sha256"))
    except OSError as error:
        raise SweepError(f"cannot write {cached}: {error.strerror}; choose another output_dir") from error


def _check(cached: Path) -> None:
    """Raise `SweepError` if a kept base has changed since it was written."""
    expected = cached.with_suffix(".sha256")
    if expected.is_file() and hashlib.sha256(cached.read_bytes()).hexdigest() != expected.read_text().strip():
        raise SweepError(f"{cached} is damaged: it does not match its sha256")
