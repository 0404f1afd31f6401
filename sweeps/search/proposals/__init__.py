"""Proposals: which vector is evaluated next."""
