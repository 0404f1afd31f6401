"""The search alone: minimise or maximise any function with Optuna, without a model, a config or a tracker."""
