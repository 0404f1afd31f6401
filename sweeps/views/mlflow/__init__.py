"""MLflow's view of a study; the only place that imports MLflow."""
