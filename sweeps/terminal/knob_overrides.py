"""Misplaced knob overrides, such as `rules.quantize.bits=4` for `space.quantize.bits=4`."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from kmr.core import Rule
from kmr.data import Split
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import part

_RULE_SETTING = re.compile(r"\+*rules\.([^.=@]+)\.([^.=]+)=(.*)")


def is_rule_setting(word: str) -> bool:
    """Tell whether an override sets an argument of a rule."""
    return _RULE_SETTING.fullmatch(word) is not None


def check_knobs(config: DictConfig, argv: Sequence[str]) -> None:
    """Raise `SweepError` where an override of a rule's arguments names one of its knobs.

    Args:
        config: the composed config, with or without those overrides.
        argv: the overrides.
    """
    for word in argv:
        found = _RULE_SETTING.fullmatch(word)
        if found is None or found[1] not in (config.get("rules") or {}):
            continue
        name, setting, value = found.groups()
        rule = _made(name, config, setting)
        if rule is None or setting in inspect.signature(type(rule)).parameters:
            continue
        knob = f"{name}.{setting}"
        if any(each.name.partition("@")[0] == knob for each in rule.knobs):
            add = "" if OmegaConf.select(config, f"space.{knob}") is not None else "+"
            raise SweepError(f"{word}: {setting} is a knob: set {add}space.{knob}={value}")


def _made(name: str, config: DictConfig, setting: str) -> Rule | None:
    """Make a rule without that setting, on stand-ins for model and data, or return None if that fails."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    entry = plain["rules"][name]
    if not isinstance(entry, Mapping):
        return None
    entry = {key: value for key, value in entry.items() if key != setting}
    few = Split((torch.zeros(1, 1), torch.zeros(1, dtype=torch.long)))
    live = {"data": few, "calibration": few, "original": nn.Identity(), "example_inputs": None, "finetune": None}
    try:
        made = part(f"rules.{name}", entry, tuple(plain.get("trusted_modules") or ()), name=name, seed=0, **live)
    except SweepError:
        return None
    return made if isinstance(made, Rule) else None
