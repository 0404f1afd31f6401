"""Names of the files in a run folder."""

from analysis.table import META, RESULTS
from sweeps.experiment.front_artifacts import FRONT
from sweeps.experiment.open_study import LOCK
from sweeps.search.study.journal import JOURNAL

CONFIG = "config.yaml"
"""The composed config."""
MLFLOW = "mlflow.db"
"""MLflow's database of runs, if the config names no server."""
MLFLOW_FILES = "mlartifacts"
"""MLflow's artifacts, next to `MLFLOW`."""
REPORT = "report.html"
"""The report's page."""

__all__ = ["CONFIG", "FRONT", "JOURNAL", "LOCK", "META", "MLFLOW", "MLFLOW_FILES", "REPORT", "RESULTS"]
