"""Models and data of the example experiments."""
