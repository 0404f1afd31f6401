"""Modules and parametrizations that live inside a compressed model."""
