"""The study: what Optuna's storage holds, read and written in one place."""
