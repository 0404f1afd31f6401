"""The terminal: console, progress, tables, and the entry point through Hydra."""
