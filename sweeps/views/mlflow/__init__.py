"""The MLflow view of a study; the only package that imports MLflow."""
