"""Entry point of commands that take an experiment: config composed by Hydra, checks, and errors in one line."""

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeAlias, cast

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from kmr.core import KMRError
from sweeps.errors import SweepError, unknown
from sweeps.experiment.config import Config
from sweeps.experiment.renamed_entries import REMOVED, RENAMED
from sweeps.terminal.config_files import read_files_as_written
from sweeps.terminal.console import complain, wide_console
from sweeps.terminal.experiment_list import list_experiments
from sweeps.terminal.knob_overrides import check_knobs, is_rule_setting

CommandWork: TypeAlias = Callable[[Config, dict[str, Any], list[str], Console], int]
"""The work of a command: maps the checked config, its plain values, the overrides and the console to an exit code."""

_OPTIONS = """

Options:
    --config-dir DIR   also search DIR for config groups: exp/, rule/, meter/, policy/ ...
    --cfg job          print the composed config and stop
    --help             print this; --hydra-help prints Hydra's own options"""

_TRACE = "KMR_TRACEBACK"
"""The environment variable that shows the traceback of an unexpected error."""


def enter(work: CommandWork, about: str, stopped: str = "") -> None:
    """Do the work for the experiment named on the command line, or list all experiments; then exit with its code.

    Args:
        work: the command's work.
        about: the text for `--help`.
        stopped: the message after Ctrl-C.
    """
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(about.strip() + _OPTIONS)
        sys.exit(0)
    codes: list[int] = []
    read_files_as_written()

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
    def entry(config: DictConfig) -> None:
        if "exp" in HydraConfig.get().runtime.choices:
            codes.append(guarded(work, config, sys.argv[1:]))
        else:
            list_experiments(wide_console(), sys.argv[1:])

    # Hydra prints its own errors over many lines unless this variable asks for the exception.
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        entry()
    except MissingConfigException as error:
        codes.append(complain(_missing(error, sys.argv[1:])))
    except (HydraException, OmegaConfBaseException) as error:
        codes.append(complain(_knob_override(sys.argv[1:]) or _without_such_an_entry(str(error))))
    except KeyboardInterrupt:
        if stopped:
            print(stopped, file=sys.stderr)
        codes.append(130)
    sys.exit(codes[-1] if codes else 0)


def guarded(work: CommandWork, raw: DictConfig, argv: list[str], console: Console | None = None) -> int:
    """Check a composed config and do the work; print a failure as one line on stderr, and return the exit code.

    Args:
        work: the command's work.
        raw: the config, checked against `sweeps.experiment.config.Config`.
        argv: the overrides it was composed from, for the commands to print.
        console: where to print.
    """
    try:
        _check_names(raw)
        check_knobs(raw, argv)
        config = cast(Config, OmegaConf.to_object(raw))
        given = cast("dict[str, Any]", OmegaConf.to_container(raw, resolve=True))
        plain = {name: given.get(name, default) for name, default in asdict(Config()).items()}  # ~space leaves it out
        return work(config, plain, argv, console or wide_console())
    except (SweepError, KMRError, OmegaConfBaseException) as error:
        return complain(error)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _unexpected(error)
        where = error.filename or raw.output_dir
        return complain(
            f"the disk is full ({where}): free some space and run the same command again; finished trials are kept"
        )
    except Exception as error:
        return _unexpected(error)


def _check_names(raw: DictConfig) -> None:
    """Raise `SweepError` for an unknown config entry, because Hydra accepts any with a +."""
    for name in map(str, raw):
        if trouble := _no_entry(name):
            raise SweepError(trouble)


def _no_entry(name: str) -> str | None:
    """Return the message for an unknown config entry; None for a known one."""
    known = [entry.name for entry in fields(Config)]
    if name in known:
        return None
    gone = f" any more: {REMOVED[name]}" if name in REMOVED else ""
    return f"the config has no entry {name}" + (gone or unknown(name, known, all_of_them=False, names_now=RENAMED))


def _without_such_an_entry(message: str) -> str:
    """Return the message for an override of an unknown entry; Hydra's own suggests to add the entry."""
    found = re.search(r"Could not override '([^'.@]+)|Key '(\w+)' not in 'Config'", message)
    return (_no_entry(found[1] or found[2]) if found else None) or message


def _knob_override(argv: Sequence[str]) -> str | None:
    """Return the message for a knob set among a rule's arguments, if that is why Hydra failed."""
    kept = [word for word in argv if not is_rule_setting(word)]
    if len(kept) == len(argv):
        return None
    found: list[str] = []

    @hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
    def ask(config: DictConfig) -> None:
        try:
            check_knobs(config, argv)
        except SweepError as error:
            found.append(str(error))

    sys.argv[1:] = kept
    try:
        ask()
    except (HydraException, OmegaConfBaseException):  # another override is wrong too
        return None
    finally:
        sys.argv[1:] = argv
    return found[0] if found else None


def _unexpected(error: Exception) -> int:
    if os.environ.get(_TRACE) == "1":
        raise error
    complain(f"{type(error).__name__}: {error} (set {_TRACE}=1 to see where)")
    return 1


def _missing(error: MissingConfigException, argv: Sequence[str]) -> str:
    """Return the message for a missing config part, with the existing ones, which Hydra does not always list."""
    asked = str(error.missing_cfg_file or "")
    group, _, name = asked.rpartition("/")
    options = list(error.options or _options(group, argv)) if group else []
    if not options:
        return str(error)
    return f"there is no {asked}{unknown(name, sorted(options))}"


def _options(group: str, argv: Sequence[str]) -> set[str]:
    """Return the options of a config group, from this project and from the user's `--config-dir` folders."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_module("conf", version_base="1.3"):
        found = set(GlobalHydra.instance().config_loader().get_group_options(group))
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        sign, _, folder = word.partition("=")
        if sign in ("--config-dir", "-cd"):
            found |= {path.stem for path in Path(folder or following, group).glob("*.yaml")}
    return found
