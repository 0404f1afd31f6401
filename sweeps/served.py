"""Former location of `sweeps.views.mlflow.pyfunc`, which models logged by older versions name as their loader."""

from sweeps.views.mlflow.pyfunc import _load_pyfunc as _load_pyfunc
