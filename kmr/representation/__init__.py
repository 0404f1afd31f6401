"""Modules and parametrizations of compressed models."""
