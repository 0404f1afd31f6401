"""Artifacts: a compressed model as a folder of safetensors and JSON that can be loaded without pickle."""

from kmr.artifact.folder import load, save

__all__ = ["load", "save"]
