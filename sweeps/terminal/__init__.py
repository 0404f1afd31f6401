"""The terminal: console, progress, tables on the screen, and the entry through Hydra."""
