"""Front members as MLflow models, which `mlflow.pytorch` or `mlflow.pyfunc` loads and MLflow can register.

A model is logged as the graph that `torch.export` traces (`.pt2`), which runs without this project's code, together
with the exact artifact in `kmr/`. A model that cannot be traced, or takes inputs other than tensors, is logged as a
`pyfunc` that loads the artifact. Neither contains a pickled module.
"""

import importlib.metadata
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kmr.artifact import folder as artifact
from kmr.data import forward, map_tensors

if TYPE_CHECKING:
    from sweeps.views.mlflow.runs import StudyRuns

_POINT_TAG = "kmr.point"
_DIGEST_TAG = "kmr.sha256"
_TRACED = 3
"""Samples to trace with: not 1, which the tracer treats as a constant, and not a common layer size."""


@dataclass(frozen=True)
class FrontModel:
    """A point on the front: its artifact's folder, its readings, and the modules that may build it."""

    point: str
    folder: Path
    readings: Mapping[str, float]
    sequence: str
    trusted_modules: Sequence[str] = ()


def log_front_models(
    runs: "StudyRuns", study: str, members: Sequence[FrontModel], example: Any, say: Callable[[str], None]
) -> None:
    """Log the models that are not there yet, and keep the tag `pareto` on the front's models.

    Args:
        runs: the study's runs.
        study: the study's name, which the models' names start with.
        members: the front.
        example: a batch of at least two inputs, as the model takes them.
        say: prints a message about each model that can only be logged as a `pyfunc`.
    """
    known = _known(runs)
    names = {member.point for member in members}
    for model in known.values():
        on_front = str(model.tags[_POINT_TAG] in names).lower()
        if model.tags.get("pareto") != on_front:
            runs.client.set_logged_model_tags(model.model_id, {"pareto": on_front})
    for member in members:
        digest = artifact.read(member.folder).sha256
        if (member.point, digest) not in known:
            _log(runs, study, member, digest, example, say)


def _known(runs: "StudyRuns") -> dict[tuple[str, str], Any]:
    """Return the study's complete models, by point and digest."""
    from mlflow.entities import LoggedModelStatus

    found: dict[tuple[str, str], Any] = {}
    token = None
    while True:
        query = f"tags.`kmr.study_run` = '{runs.parent}'"
        page = runs.client.search_logged_models([runs.place.experiment_id], query, page_token=token)
        for model in page:
            if model.status == LoggedModelStatus.READY:
                found[model.tags.get(_POINT_TAG, ""), model.tags.get(_DIGEST_TAG, "")] = model
        token = page.token
        if not token:
            return found


def _log(
    runs: "StudyRuns", study: str, member: FrontModel, digest: str, example: Any, say: Callable[[str], None]
) -> None:
    from mlflow.entities import LoggedModelOutput, Metric

    trial, _, step = member.point.partition(".")
    run = runs.run_ids.get(int(trial), runs.parent) if trial.isdigit() else runs.parent
    tags = {
        "kmr.study_run": runs.parent, _POINT_TAG: member.point, _DIGEST_TAG: digest,
        "kmr.sequence": member.sequence[:5000], "pareto": "true",
    }  # fmt: skip
    logged = runs.client.create_logged_model(
        runs.place.experiment_id, _model_name(study, member.point), run, tags, model_type="kmr"
    )
    try:
        with tempfile.TemporaryDirectory(prefix="kmr-model-") as aside:
            folder = Path(aside) / "model"
            problem = write_model(folder, member, example, run_id=run, model_id=logged.model_id)
            if problem:
                say(f"{member.point} is in MLflow as a pyfunc only, because it cannot be exported: {problem}")
            runs.client.log_model_artifacts(logged.model_id, str(folder))
    except Exception:
        runs.client.finalize_logged_model(logged.model_id, "FAILED")
        raise
    runs.client.log_outputs(run, [LoggedModelOutput(logged.model_id, int(step or 0))])
    at = logged.creation_timestamp
    metrics = [
        Metric(name, value, at, int(step or 0), model_id=logged.model_id, run_id=run)
        for name, value in member.readings.items()
    ]
    runs.client.log_batch(run, metrics)
    runs.client.finalize_logged_model(logged.model_id, "READY")


def write_model(
    folder: Path, member: FrontModel, example: Any, run_id: str | None = None, model_id: str | None = None
) -> str:
    """Write a front member in MLflow's model format; return why it could not be exported, or an empty string.

    Args:
        folder: the folder to create.
        member: the front member.
        example: a batch of at least two inputs.
        run_id: id of the model's run.
        model_id: MLflow's id of the model.
    """
    model = artifact.load(member.folder, trusted_modules=member.trusted_modules)
    with torch.no_grad():
        inputs = _small(example)
        output = forward(model, inputs)
    problem = "its inputs are not all tensors"
    tensors = [inputs] if isinstance(inputs, torch.Tensor) else list(inputs) if isinstance(inputs, tuple) else []
    if tensors and all(isinstance(tensor, torch.Tensor) for tensor in tensors):
        try:
            _write_exported(folder, model, tensors, output, run_id, model_id)
            problem = ""
        except Exception as error:  # tracing a user's forward pass may raise anything
            shutil.rmtree(folder, ignore_errors=True)
            problem = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if problem:
        _write_served(folder, inputs, output, run_id, model_id)
    shutil.copytree(member.folder, folder / "kmr")
    return problem


def _write_exported(
    folder: Path, model: torch.nn.Module, inputs: list[torch.Tensor], output: torch.Tensor, run_id: Any, model_id: Any
) -> None:
    arrays = [tensor.numpy() for tensor in inputs]
    with _quiet():
        import mlflow.pytorch
        from mlflow.models import Model

        mlflow.pytorch.save_model(
            model,
            str(folder),
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
            signature=_signature(inputs[0] if len(inputs) == 1 else inputs, output),
            input_example=arrays[0] if len(arrays) == 1 else arrays,
            pip_requirements=_requirements("torch", "mlflow"),
            serialization_format="pt2",
        )


def _write_served(folder: Path, inputs: Any, output: torch.Tensor, run_id: Any, model_id: Any) -> None:
    with _quiet():
        import mlflow.pyfunc
        from mlflow.models import Model

    folder.mkdir(parents=True)
    model = Model(run_id=run_id, model_id=model_id, model_uuid=model_id, signature=_signature(inputs, output))
    mlflow.pyfunc.add_to_model(
        model, loader_module="sweeps.views.mlflow.pyfunc", data="kmr", model_config={"trusted_modules": []}
    )
    (folder / "requirements.txt").write_text("\n".join(_requirements("kmr-sweeps", "torch", "mlflow")) + "\n")
    model.save(str(folder / "MLmodel"))


def _signature(inputs: Any, output: torch.Tensor) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(tensor: torch.Tensor, name: str | None = None) -> TensorSpec:
        return TensorSpec(tensor.numpy().dtype, (-1, *tensor.shape[1:]), name)

    if isinstance(inputs, torch.Tensor):
        specs: list[Any] = [spec(inputs)]
    else:
        named = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
        specs = [spec(tensor, str(name)) for name, tensor in named]
    return ModelSignature(Schema(specs), Schema([spec(output)]))


def _small(example: Any) -> Any:
    """Return a batch whose size is unlikely to equal another dimension of the model."""
    sizes: list[int] = []
    map_tensors(lambda tensor: sizes.append(len(tensor)), example)
    size = min(_TRACED, *sizes)
    return map_tensors(lambda tensor: tensor[:size].detach().cpu().clone(), example)


def _model_name(study: str, point: str) -> str:
    return "".join("-" if letter in "/:.%\"'" else letter for letter in f"{study}-{point}")


def _requirements(*names: str) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(f"{name}=={importlib.metadata.version(name).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            found.append(name)
    return found


@contextmanager
def _quiet() -> Any:
    """Silence the log messages and warnings of MLflow and the exporter."""
    loggers = [logging.getLogger(name) for name in ("mlflow", "torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
