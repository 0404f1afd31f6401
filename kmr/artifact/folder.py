"""Artifact folders: a compressed model as `model.safetensors` and `kmr.json`, without code or pickle.

`kmr.artifact.packing` writes the weights file. The JSON names the function that builds the base architecture, describes
how the model's differs from it (`kmr.artifact.structure`), and records the moves and the meters' readings. The folder
is written under another name and then renamed, so that no half-written artifact is ever visible.
"""

import hashlib
import json
import os
import pkgutil
import platform
import shutil
import types
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from kmr.artifact import packing, structure
from kmr.artifact.base import plain_base
from kmr.artifact.memory_layout import apply_layout, describe_layout
from kmr.artifact.plain_checkpoint import guarded
from kmr.artifact.pretrained import FROM_CONFIG, arguments_of, check_arguments
from kmr.artifact.rebuilding import rebuild
from kmr.artifact.slots import differing_buffers
from kmr.core import KMRError, Move, Reading, TransformationSequence, choose_device
from kmr.core.norms import folded_as_stored

FORMAT = 1
WEIGHTS = "model.safetensors"
CARD = "kmr.json"
TRUSTED = ("kmr", "sweeps", "torch.nn")
"""The packages whose builders may run without the user naming them."""


@dataclass(frozen=True)
class Builder:
    """The name of the function or class that builds the base architecture, and its keyword arguments (JSON values)."""

    target: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def build(self, trusted_modules: Sequence[str] | None = None) -> nn.Module:
        """Import and call the target.

        Args:
            trusted_modules: packages or modules whose code may run besides `TRUSTED`; None trusts the target itself.

        Raises:
            KMRError: the target is not trusted, cannot be imported, or builds no module.
        """
        module_name = self._module()
        if trusted_modules is not None:
            self._check_trust(module_name, trusted_modules)
        try:
            found: Any = pkgutil.resolve_name(self.target)
        except (ImportError, AttributeError, ValueError) as error:
            raise KMRError(f"the builder {self.target} cannot be imported: {error}") from None
        if not callable(found):
            raise KMRError(f"the builder {self.target} is a {type(found).__name__}, which cannot be called")
        if trusted_modules is not None:
            owner = getattr(found, "__self__", None)  # the class of a class method
            if not isinstance(found, types.FunctionType | type) and not isinstance(owner, type):
                raise KMRError(f"the builder {self.target} is neither a function nor a class")
            # A trusted module also contains names that it imports from other modules.
            self._check_trust((owner or found).__module__, trusted_modules)
            check_arguments(self.target, self.kwargs)
        try:
            model = found(**self.kwargs)
        except TypeError as error:
            raise KMRError(f"the builder {self.target} does not take {dict(self.kwargs)}: {error}") from error
        if not isinstance(model, nn.Module):
            raise KMRError(f"the builder {self.target} built a {type(model).__name__}, not a module")
        return model

    def _module(self) -> str:
        module_name, _, names = self.target.partition(":") if ":" in self.target else self.target.rpartition(".")
        if not module_name or not names:
            raise KMRError(f"invalid name of a builder: {self.target!r}; write package.module:function")
        return module_name

    def _check_trust(self, module_name: str, trusted_modules: Sequence[str]) -> None:
        for trusted in (*TRUSTED, *trusted_modules):
            if module_name == trusted or module_name.startswith(f"{trusted}."):
                return
        raise KMRError(
            f"the builder {self.target} would run code of {module_name}: if you trust it, pass "
            f"trusted_modules=[{module_name.partition('.')[0]!r}], or pass the base model itself as base"
        )


@dataclass(frozen=True)
class Card:
    """The metadata of an artifact: its base's builder, the moves, the readings, extra values and file digests."""

    builder: Builder
    sequence: TransformationSequence
    readings: Mapping[str, Reading]
    extra: Mapping[str, Any]
    versions: Mapping[str, str]
    sha256: str
    weights_bytes: int


def save(
    folder: str | os.PathLike[str],
    model: nn.Module,
    *,
    base: nn.Module | None = None,
    builder: Builder,
    sequence: Iterable[Move] = (),
    readings: Mapping[str, Reading] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as an artifact; return its folder. Neither the model nor the base is changed.

    Args:
        folder: the destination; an artifact there is replaced, any other non-empty folder is an error.
        model: the compressed model.
        base: the uncompressed model, of which only the architecture matters; built by `builder` when None.
        builder: builds the base when the artifact is loaded.
        sequence: the moves from the base to the model.
        readings: the model's readings, by meter.
        extra: any other JSON values to store.

    Raises:
        KMRError: the model cannot be stored exactly, a value is not JSON, or the folder holds something else.
    """
    folder = Path(folder)
    base = builder.build() if base is None else base
    if builder.target.startswith("transformers.") and (arguments := arguments_of(base)):
        builder = Builder(FROM_CONFIG, arguments)  # loading must not need the original weights again
    description = structure.describe(base, model)
    rebuilt = rebuild(base, description)
    packed = packing.pack(model, also=differing_buffers(model, rebuilt))
    packing.unpack(packed, rebuilt)
    card = {
        "format": FORMAT,
        "builder": {"target": builder.target, "kwargs": dict(builder.kwargs)},
        "classes": _classes(base),
        "structure": description,
        "layout": describe_layout(model, rebuilt),
        "sequence": [{"knob": move.knob, "value": move.value} for move in sequence],
        "readings": {name: {"value": r.value, "stderr": r.stderr} for name, r in (readings or {}).items()},
        "extra": dict(extra or {}),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    aside = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    aside.mkdir(parents=True)
    try:
        packing.write(packed, aside / WEIGHTS)
        card["weights"] = {"sha256": _digest(aside / WEIGHTS), "bytes": (aside / WEIGHTS).stat().st_size}
        (aside / CARD).write_text(_json(card), encoding="utf-8")
        _rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def load(
    folder: str | os.PathLike[str],
    *,
    base: nn.Module | Callable[[], nn.Module] | None = None,
    trusted_modules: Sequence[str] = (),
    device: str | torch.device = "cpu",
) -> nn.Module:
    """Rebuild the model of an artifact, in evaluation mode, with its grids and masks in force.

    Args:
        folder: the artifact.
        base: a model of the base architecture, which is not changed, or a function that builds one; by default the
            builder named in the artifact is imported and called.
        trusted_modules: packages whose builders may run, besides those in `TRUSTED`.
        device: where the model goes: `cpu`, `auto`, `cuda`, `cuda:1` or `mps`.

    Raises:
        KMRError: the artifact is missing, damaged or of another version, its builder is not trusted, the base does not
            match, or the device cannot be used here.
    """
    place = choose_device(device)
    folder = Path(folder)
    card, described = _card(folder)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise KMRError(f"the artifact {folder} has no {WEIGHTS}: save it again")
    if (found := _digest(weights)) != card.sha256:
        raise KMRError(
            f"{weights} does not match {CARD}: its sha256 is {found[:12]}…, not {card.sha256[:12]}…; save it again"
        )
    packed = packing.read(weights)
    if base is None:
        base = card.builder.build(trusted_modules)
    elif not isinstance(base, nn.Module):
        base = base()
    if not isinstance(base, nn.Module):
        raise KMRError(f"the base is a {type(base).__name__}, not a module")
    base = folded_as_stored(plain_base(base, card.extra.get("inputs")), packed.tensors)
    try:
        if described["classes"] != _classes(base):
            raise KMRError("its modules differ")
        model = packing.unpack(packed, rebuild(base, described["structure"]).cpu())
        apply_layout(model, described["layout"])
    except (KMRError, KeyError, AttributeError, RuntimeError) as error:
        raise KMRError(f"the base architecture no longer fits the artifact {folder}: {error}") from None
    return guarded(model.to(place).eval(), described["structure"])


def digest(folder: str | os.PathLike[str]) -> str:
    """Return the sha256 of an artifact's weights file; `read(folder).sha256` is the expected one."""
    return _digest(Path(folder) / WEIGHTS)


def read(folder: str | os.PathLike[str]) -> Card:
    """Read an artifact's metadata without building a model.

    Raises:
        KMRError: the folder holds no artifact, or its JSON is damaged or of another version.
    """
    return _card(Path(folder))[0]


def _card(folder: Path) -> tuple[Card, dict[str, Any]]:
    """Return an artifact's card and its complete JSON."""
    if not folder.is_dir():
        raise KMRError(f"no artifact at {folder}: the folder does not exist")
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KMRError(f"not an artifact ({CARD} is missing): {folder}") from None
    except ValueError as error:
        raise KMRError(f"{folder / CARD} is damaged: {error}") from None
    if not isinstance(card, dict) or card.get("format") != FORMAT:
        version = card.get("format") if isinstance(card, dict) else None
        raise KMRError(f"the artifact {folder} has format {version!r}; this version reads {FORMAT}")
    try:
        described = Card(
            builder=Builder(card["builder"]["target"], card["builder"]["kwargs"]),
            sequence=TransformationSequence(tuple(Move(move["knob"], move["value"]) for move in card["sequence"])),
            readings={name: Reading(r["value"], r["stderr"]) for name, r in card["readings"].items()},
            extra=card["extra"],
            versions=card["versions"],
            sha256=card["weights"]["sha256"],
            weights_bytes=card["weights"]["bytes"],
        )
        if not isinstance(card["structure"], dict) or not isinstance(card["classes"], str):
            raise TypeError("its structure has another format")
    except (AttributeError, KeyError, TypeError) as error:
        raise KMRError(f"{folder / CARD} is damaged: {type(error).__name__} {error}") from None
    return described, card


def _classes(base: nn.Module) -> str:
    """Return a digest of the base's module classes: another class at the same path would compute something else."""
    listed = []
    for path, module in base.named_modules(remove_duplicate=False):
        if "parametrizations" not in path.split("."):
            # Parametrization gives a module its own class, whose base is the layer's.
            kind = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
            listed.append(f"{path}:{kind.__name__}")
    return hashlib.sha256("\n".join(listed).encode()).hexdigest()[:16]


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _json(card: Mapping[str, Any]) -> str:
    try:
        return json.dumps(card, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise KMRError(f"an artifact stores JSON values only: {error}") from None


def _rename(aside: Path, folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
    if not folder.exists():
        aside.rename(folder)
        return
    if not (folder / CARD).is_file():
        raise KMRError(f"{folder} exists and is not an artifact: choose another folder or empty it")
    old = folder.parent / f".{folder.name}.{uuid.uuid4().hex}"
    folder.rename(old)
    try:
        aside.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
