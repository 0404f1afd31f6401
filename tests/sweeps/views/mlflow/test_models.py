"""Front members in MLflow: loadable without pickle, exact, and by the artifact where they cannot be exported."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kmr.artifact import folder as artifact
from kmr.artifact.folder import Builder
from sweeps.views.mlflow.models import FrontModel, log_front_models, write_model
from sweeps.views.mlflow.runs import StudyRuns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow's own, at its import
    import mlflow.pyfunc
    import mlflow.pytorch

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
SMALL = Builder("torch.nn.Linear", {"in_features": 4, "out_features": 2})
INPUTS = torch.arange(20.0).reshape(5, 4)


def member(folder: Path, model: nn.Module | None = None, builder: Builder = SMALL, point: str = "0.1") -> FrontModel:
    model = builder.build() if model is None else model
    artifact.save(folder / point, model.eval(), builder=builder)
    return FrontModel(
        point, folder / point, {"weight_bytes": 40.0, "test/accuracy": 0.9}, "bits=8", ("test_mlflow_models",)
    )


class ByName(nn.Module):
    """Takes its inputs by name, which an exported graph does not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left) + self.layer(right)


def test_a_model_loads_without_pickle_and_computes_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    one = member(tmp_path)
    assert write_model(tmp_path / "model", one, INPUTS) == ""
    expected = artifact.load(one.folder)(INPUTS)
    assert torch.equal(mlflow.pytorch.load_model(str(tmp_path / "model"))(INPUTS), expected)
    assert mlflow.pytorch.load_model(str(tmp_path / "model"))(INPUTS[:1]).shape == (1, 2), "any batch size"
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert served.predict(INPUTS.numpy()).tolist() == expected.tolist()
    assert served.metadata.signature.inputs.inputs[0].shape == (-1, 4)
    assert served.metadata.saved_input_example_info is not None
    assert artifact.digest(tmp_path / "model" / "kmr") == artifact.digest(one.folder)
    assert not list((tmp_path / "model").rglob("*.pkl"))


def test_what_cannot_be_exported_is_served_from_its_artifact(tmp_path) -> None:
    inputs = {"left": INPUTS, "right": 2 * INPUTS}
    one = member(tmp_path, ByName(), Builder(f"{__name__}:ByName"))
    one = FrontModel(one.point, one.folder, one.readings, one.sequence, (__name__,))
    assert "inputs are not all tensors" in write_model(tmp_path / "model", one, inputs)
    config = {"trusted_modules": [__name__]}
    served = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config=config)
    expected = artifact.load(one.folder, trusted_modules=[__name__])(**inputs)
    assert served.predict({name: value.numpy() for name, value in inputs.items()}).tolist() == expected.tolist()


def test_models_are_logged_once_can_be_registered_and_follow_the_front(tracked, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tracked / 'mlflow.db'}")
    runs = StudyRuns(f"sqlite:///{tracked / 'mlflow.db'}", "digits", "study-1", (tracked / "mlartifacts").as_uri())
    said: list[str] = []
    first, second = member(tracked, point="base"), member(tracked, point="3.2")
    log_front_models(runs, "digits", [first], INPUTS, said.append)
    log_front_models(runs, "digits", [first], INPUTS, said.append)
    log_front_models(runs, "digits", [second], INPUTS, said.append)
    assert said == []
    found = {model.name: model for model in runs.client.search_logged_models([runs.place.experiment_id])}
    assert set(found) == {"digits-base", "digits-3-2"}
    assert [found[name].tags["pareto"] for name in ("digits-base", "digits-3-2")] == ["false", "true"]
    assert {metric.key: metric.value for metric in found["digits-3-2"].metrics} == second.readings
    output = runs.client.get_run(runs.parent).outputs.model_outputs
    assert {one.model_id for one in output} == {model.model_id for model in found.values()}
    runs.client.create_registered_model("small-digits")
    source = f"models:/{found['digits-3-2'].model_id}"
    version = runs.client.create_model_version("small-digits", source, model_id=found["digits-3-2"].model_id)
    assert version.status == "READY"
