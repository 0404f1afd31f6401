"""Execution: the driver, its executors and workers, and the end of a search."""
