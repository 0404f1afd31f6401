from sweeps import served
from sweeps.views.mlflow import pyfunc


def test_models_logged_by_older_versions_find_their_loader() -> None:
    assert served._load_pyfunc is pyfunc._load_pyfunc
