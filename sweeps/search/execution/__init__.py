"""Execution: who evaluates trials, and how a search ends."""
