"""The study: all access to Optuna's storage."""
