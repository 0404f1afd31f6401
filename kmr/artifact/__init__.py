"""Artifacts: folders of safetensors and JSON that store compressed models without pickle."""

from kmr.artifact.folder import load, save

__all__ = ["load", "save"]
