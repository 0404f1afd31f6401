"""Code behind a study: stored with it, compared when it is resumed, and the trials after an accepted change marked."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from kmr.cache.code import code_of_all
from sweeps.errors import SweepError
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.instantiate import locate
from sweeps.search.study.attributes import CODE, CODE_CHANGES
from sweeps.search.study.record import now, records


@dataclass(frozen=True)
class CodeChange:
    """An accepted change of a study's code.

    `trials` were finished before it; `changed` names the functions, classes, constants and libraries that changed.
    """

    at: str
    trials: int
    changed: tuple[str, ...]

    def __str__(self) -> str:
        return f"the code changed after {self.trials} trials: {_listed(self.changed)}"


def check_code(known: optuna.Study, experiment: Experiment, what: str) -> tuple[str, ...]:
    """Return what has changed in the code since a study was made; none if the study does not say.

    Args:
        known: the study.
        experiment: the experiment to continue it with.
        what: the study's name in messages.

    Raises:
        SweepError: the code has changed, and the config does not accept it.
    """
    then = known.user_attrs.get(CODE)
    changed = () if then is None else tuple(_changes(then, code_of(experiment)))
    if changed and not experiment.config.accept_code_change:
        raise SweepError(
            f"{what} was made with other code: {_listed(changed)}. Start a new study with name=…, restore the code, or "
            "set accept_code_change=true to mix both; later trials are then marked"
        )
    return changed


def keep_code(study: optuna.Study, experiment: Experiment, changed: Sequence[str]) -> None:
    """Store the code that a study goes on with, and an accepted change; a study of an older version has no code yet."""
    if changed:
        change = {"at": now(), "trials": len(records(study)), "changed": list(changed)}
        study.set_user_attr(CODE_CHANGES, [*study.user_attrs.get(CODE_CHANGES, ()), change])
    if changed or CODE not in study.user_attrs:
        study.set_user_attr(CODE, code_of(experiment))


def code_changes(study: optuna.Study) -> tuple[CodeChange, ...]:
    """Return the accepted changes of a study's code, the oldest first."""
    kept = study.user_attrs.get(CODE_CHANGES, ())
    return tuple(CodeChange(each["at"], each["trials"], tuple(each["changed"])) for each in kept)


def note_of(study: optuna.Study) -> str | None:
    """Return the note for every trial that starts now; None if the code is that of the first trial."""
    changed = dict.fromkeys(name for change in code_changes(study) for name in change.changed)
    return f"made with changed code: {_listed(tuple(changed))}" if changed else None


def code_of(experiment: Experiment) -> dict[str, str]:
    """Return the digests and versions of the code that an experiment's `_target_` entries name."""
    return code_of_parts(experiment.plain.get(name) for name in experiment.identity)


def code_of_parts(parts: Iterable[Any]) -> dict[str, str]:
    """Return the digests and versions of the code that the `_target_` entries of some parts of a config name."""
    targets = {target: locate("the study", target) for target in sorted(set(_targets([*parts])))}
    return code_of_all(found for found in targets.values() if hasattr(found, "__qualname__"))


def _targets(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(config.get("_target_"), str):
            yield config["_target_"]
        for value in config.values():
            yield from _targets(value)
    elif isinstance(config, list | tuple):
        for value in config:
            yield from _targets(value)


def _changes(then: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    """Yield what changed, the versions of libraries with it; what only one of both has comes last."""
    both = [name for name in then if name in here and then[name] != here[name]]
    for name in both:
        is_digest = re.fullmatch("[0-9a-f]{32}", here[name])
        yield name if is_digest else f"{name} ({then[name]}, now {here[name]})"
    yield from (f"{name} (no longer used)" for name in then if name not in here)
    yield from (f"{name} (new)" for name in here if name not in then)


def _listed(changed: tuple[str, ...]) -> str:
    return ", ".join(changed[:6]) + (f" and {len(changed) - 6} more" if len(changed) > 6 else "")
