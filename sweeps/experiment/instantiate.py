"""Instantiation of config parts, limited to trusted code.

Hydra's own block list admits functions that write files or unpickle. So a `_target_` must be in this project, in a
library that a sweep needs, or in a module that the user lists in `trusted_modules`.
"""

import functools
import importlib
import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from kmr.artifact.pretrained import PACKAGE, check_arguments
from kmr.core import KMRError
from kmr.tasks.losses import LOSS_WEIGHTS, numbers
from sweeps.errors import SweepError, unknown

TRUSTED = (
    "kmr", "sweeps.examples", "sweeps.search.proposals.choose_sampler", "torch.nn", "torch.optim", "torch.ao.nn",
    "optuna.samplers", "transformers.models",
)  # fmt: skip
"""Packages whose functions and classes a config may always name."""


def part(what: str, config: Any, trusted_modules: Sequence[str] = (), **live: Any) -> Any:
    """Make the part that a config describes.

    Args:
        what: the part's name in messages (`rules.prune`).
        config: a mapping with a `_target_` and its arguments.
        trusted_modules: the user's modules that a `_target_` may name.
        live: objects to pass; the target receives those whose names it takes and the config does not set.

    Raises:
        SweepError: the target is not named, not trusted, missing, or does not take the arguments.
    """
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise SweepError(f"{what} must name its code in _target_, not {config!r}")
    check_trust(what, config, trusted_modules)
    try:
        made = instantiate(_with_tensors(config), _convert_="all", _partial_=True)
        accepted = inspect.signature(made.func).parameters
        _check_arguments(str(config["_target_"]), made.keywords, accepted, live)
        wanted = {name: value for name, value in live.items() if name in accepted and name not in made.keywords}
        return functools.partial(made.func, *made.args, **{**made.keywords, **wanted})()
    except (SweepError, KMRError) as error:
        raise SweepError(f"{what}: {error}") from error
    except InstantiationException as error:
        raise SweepError(f"{what}: {_first_line(error)}") from error
    except (Exception, SystemExit) as error:  # a user's code may raise anything
        raise SweepError(f"{what}: {type(error).__name__}: {_first_line(error)}") from error


def _with_tensors(config: Any) -> Any:
    """Return a config in which the weights of torch's losses, lists in a YAML file, are tensors."""
    if isinstance(config, Mapping):
        loss = str(config.get("_target_", "")).startswith("torch.nn.") and str(config["_target_"]).endswith("Loss")
        return {
            key: numbers(value) if loss and key in LOSS_WEIGHTS and isinstance(value, list) else _with_tensors(value)
            for key, value in config.items()
        }
    return [_with_tensors(value) for value in config] if isinstance(config, list) else config


def _check_arguments(
    target: str, given: Mapping[str, Any], accepted: Mapping[str, inspect.Parameter], live: Mapping[str, Any]
) -> None:
    """Raise `SweepError` where a config gives an argument that its target does not take."""
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values()):
        return
    known = [name for name in accepted if name not in ("self", *live)]
    for name in given:
        if name not in accepted:
            raise SweepError(f"{target} takes no {name}{unknown(name, known)}")


def check_trust(what: str, config: Any, trusted_modules: Sequence[str]) -> None:
    """Raise `SweepError` unless every `_target_` in a config names trusted code, wherever it was defined."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            target = str(config["_target_"])
            _check_target(what, target, trusted_modules)
            try:
                check_arguments(target, config)
            except KMRError as error:
                raise SweepError(f"{what}: {error}") from error
        if config.get("trust_remote_code"):
            raise SweepError(f"{what} sets trust_remote_code, which runs code of others: leave it out")
        for key, value in config.items():
            check_trust(f"{what}.{key}", value, trusted_modules)
    elif isinstance(config, Sequence) and not isinstance(config, str):
        for value in config:
            check_trust(what, value, trusted_modules)


def _check_target(what: str, target: str, trusted_modules: Sequence[str]) -> None:
    trusted = (*TRUSTED, *trusted_modules)
    if target.startswith("transformers.") and target.endswith(".from_pretrained"):
        # transformers exports its models at the top; a model's own class says where it is defined.
        owner = getattr(locate(what, target), "__self__", None)
        if isinstance(owner, type) and _within(owner.__module__, (PACKAGE,)):
            return
    if not _within(target, trusted):
        top = target.split(".")[0]
        raise SweepError(
            f"{what} names {target}, which is not trusted: if the code is yours, add trusted_modules=[{top}]"
        )
    found = locate(what, target)
    home = getattr(found, "__module__", None) or getattr(type(found), "__module__", "")
    if not callable(found) or not _within(str(home), trusted):
        raise SweepError(
            f"{what} names {target}, which is defined in {home} and not trusted: "
            f"if the code is yours, add trusted_modules=[{str(home).split('.')[0]}]"
        )


def locate(what: str, target: str) -> Any:
    """Import what a `_target_` names; the current folder is searched last.

    Raises:
        SweepError: it cannot be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that no folder in it hides a package
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:cut])
        try:
            found = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
                continue
            raise SweepError(
                f"{what}: importing {name} needs the module {error.name}, which is not installed"
            ) from error
        except Exception as error:
            raise SweepError(f"{what}: importing {name} failed: {type(error).__name__}: {error}") from error
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                raise SweepError(f"{what} names {target}, but {name} has no {attribute}")
            found = getattr(found, attribute)
        return found
    raise SweepError(f"{what} names {target}, but there is no module {parts[0]}: is its folder the current one?")


def _within(name: str, packages: Sequence[str]) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
