"""The script that wrote the files beside it: artifacts, models of MLflow, a study and a search of an earlier version.

They are of kmr-sweeps 0.1.0 at commit 23549226f1bfd350b2f37bd5845e08b24474e2b0, the last one before most modules moved.
It runs with that version only: the files are there for the names that modules and classes had in it.

    PYTHONPATH=.:tests/support python tests/compatibility/write.py
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import torch
import written_before
import yaml
from safetensors.torch import save_file
from test_written_before import SEARCH, searched
from torch import nn

import conf
import kmr
from kmr.artifact import Builder
from kmr.core import Move
from kmr.data import Split
from kmr.finetune import FineTune
from sweeps.build import part
from sweeps.mlflow_models import FrontModel, write_model

HERE = Path(__file__).parent
COMMIT = "23549226f1bfd350b2f37bd5845e08b24474e2b0"
IMAGES = (
    torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    * torch.linspace(0.5, 2, 4).repeat(12)[:, None, None, None]
)
"""What rules calibrate with and train on."""
INPUTS = IMAGES[12:16].clone()
"""What every artifact is given."""

Moves = list[tuple[str, Mapping[str, Any], Any]]
"""Of each move the rule in `conf/rule`, its settings, and the value of its first knob."""

ARTIFACTS: dict[str, tuple[str, Moves]] = {
    "dense": ("cnn", []),
    "masked": ("cnn", [("prune", {}, 0.6)]),
    "narrowed": ("cnn", [("structured", {}, 0.4)]),
    "quantized": ("cnn", [("quantize", {}, 4)]),
    "clustered": ("cnn", [("cluster", {}, 2)]),
    "masked_and_quantized": ("cnn", [("prune", {}, 0.5), ("quantize", {}, 3)]),
    "masked_and_clustered": ("cnn", [("prune", {}, 0.5), ("cluster", {}, 2)]),
    "static": ("every_layer", [("static", {}, 8)]),
    "static_learned": ("cnn", [("static", {"learned": True}, 4)]),
    "dynamic": ("cnn", [("dynamic", {}, 8)]),
    "gated": ("cnn", [("gate", {}, 0.5)]),
    "early_exits": ("cnn", [("exits", {"exits": ["3.0", "5"]}, 0.337)]),
    "low_rank": ("cnn", [("lowrank", {}, 0.7)]),
    "tucker": ("cnn", [("tensor", {"method": "tucker"}, 0.7)]),
    "cp": ("cnn", [("tensor", {"method": "cp"}, 0.7)]),
    "tensor_train": ("cnn", [("tensor", {"method": "tensor_train"}, 0.7)]),
    "shared": ("cnn", [("share", {}, 1.0)]),
    "shared_blocks": ("cnn", [("share_blocks", {"rank": 1}, 1.0)]),
    "without_blocks": ("cnn", [("depth", {}, 0.5)]),
    "adapted": ("cnn", [("adapters", {}, 0.4)]),
    "distilled": ("student", [("distil", {"turn": ["width"], "student": written_before.student, "widths": [4]}, 4)]),
    "attention": ("transformer", [("static", {}, 8)]),
    "in_a_row": ("cnn", [("structured", {}, 0.2), ("lowrank", {}, 0.6), ("static", {}, 6)]),
}  # fmt: skip

NEVER_SAVED = {
    "Grid", "Codebook", "Mask", "UnitMask", "LearnedWidth", "Adapter", "SerialAdapter", "_Pair", "Flat", "_Projection",
    "_Probe", "_HeadTraining",
}  # fmt: skip
"""Modules of kmr that no artifact names: held by the packed weights, or gone when a rule or a training is done."""


def main() -> None:
    """Write everything anew."""
    found = subprocess.run(["git", "merge-base", "HEAD", COMMIT], capture_output=True, text=True, cwd=HERE, check=True)
    product = ["git", "diff", "--quiet", COMMIT, "--", "kmr", "sweeps", "conf"]
    if found.stdout.strip() != COMMIT or subprocess.run(product, cwd=HERE).returncode:
        sys.exit(f"this script runs with the version of commit {COMMIT[:7]} only")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    write_artifacts()
    write_models()
    write_study()
    write_search()


def write_artifacts() -> None:
    """Write an artifact for each way in which one can name our modules, with inputs and outputs beside it."""
    shutil.rmtree(HERE / "artifacts", ignore_errors=True)
    for name, (build, moves) in ARTIFACTS.items():
        folder = HERE / "artifacts" / name
        save(folder, build, moves)
        model = kmr.load(folder, trusted_modules=["written_before"])
        expect(folder, model, INPUTS)
    named = {
        change["class"]
        for card in HERE.glob("artifacts/*/kmr.json")
        for change in json.loads(card.read_text())["structure"]["changes"]
        if change.get("class", "").startswith("kmr.")
    }
    missing = {kind for kind in ours(nn.Module) if kind.partition(":")[2] not in NEVER_SAVED} - named
    assert not missing, f"no artifact names {missing}"
    print("\n".join(sorted(named)))


def save(folder: Path, build: str, moves: Moves) -> None:
    """Make a base model, apply moves to it, and save what comes out."""
    torch.manual_seed(0)
    base = getattr(written_before, build)().eval()
    for parameter in base.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_normal_(parameter)  # so that outputs differ from input to input
    model, sequence = base, []
    for rule, settings, value in moves:
        config = yaml.safe_load((Path(conf.__file__).parent / "rule" / f"{rule}.yaml").read_text())
        data = Split((IMAGES, torch.arange(len(IMAGES)) % 4), 16)
        live = {"example_inputs": IMAGES[:2], "data": data, "original": base, **settings}
        live |= {"recipe": lambda **more: FineTune(**{"steps": 400, **more})} if "recipe" in config else {}
        kept = {key: entry for key, entry in config.items() if key not in live}
        made = part(f"rules.{rule}", kept, name=rule, seed=0, **live)
        knob = made.knobs[0].name
        model = made(model, knob, value)
        sequence.append(Move(knob, value))
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.xavier_normal_(parameter)  # an adapter adds nothing until it is trained
    kmr.save(folder, model, base=base, builder=Builder(f"written_before:{build}"), sequence=sequence)


def expect(folder: Path, model: nn.Module, inputs: torch.Tensor) -> None:
    """Keep inputs and what the model makes of them."""
    with torch.no_grad():
        outputs = model(inputs)
        if hasattr(model, "route"):
            assert len(model.route(inputs)[1].unique()) == 3, "samples leave at each exit, and stay to the end"
    assert outputs.std(0).max() > 1e-3, f"{folder.name} computes nearly the same of every input: {outputs}"
    save_file({"inputs": inputs.contiguous(), "outputs": outputs.contiguous()}, folder / "expected.safetensors")


def ours(kind: type) -> set[str]:
    """Name the classes of kmr below a class that artifacts could name."""
    found = {f"{kind.__module__}:{kind.__qualname__}"} if kind.__module__.startswith("kmr.") else set()
    return found.union(*(ours(below) for below in kind.__subclasses__()))


def write_models() -> None:
    """Write both forms in which front members are logged to MLflow: an exported graph, and a loader of an artifact."""
    shutil.rmtree(HERE / "mlflow", ignore_errors=True)
    for name in ("gated", "early_exits"):
        saved, folder = HERE / "artifacts" / name, HERE / "mlflow" / name
        with tempfile.TemporaryDirectory() as aside, without_stack_traces():
            copied = Path(aside) / name
            shutil.copytree(saved, copied, ignore=shutil.ignore_patterns("expected*"))
            problem = write_model(folder, FrontModel("0.1", copied, {}, "", ("written_before",)), INPUTS)
        assert bool(problem) == (name == "early_exits"), problem
        shutil.copy(saved / "expected.safetensors", folder)


@contextmanager
def without_stack_traces() -> Iterator[None]:
    """Leave out of exported graphs where on this machine the code lay that was traced."""
    save_program = torch.export.save

    def save(program: Any, *args: Any, **settings: Any) -> None:
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)
        save_program(program, *args, **settings)

    torch.export.save = save
    try:
        yield
    finally:
        torch.export.save = save_program


def write_study() -> None:
    """Run the experiment, and keep of its folder what a study is continued and read from."""
    kept = HERE / "study"
    shutil.rmtree(kept, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = written_before.classifier()
    data = written_before.clusters()["train"]
    FineTune(data=Split(data, 16), steps=60)(model)
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, HERE / "weights.safetensors")
    vectors = [
        {"prune.sparsity": 0.5, "cluster.bits": 4},
        {"prune.sparsity": 0.0, "cluster.bits": 8},
        {"prune.sparsity": 0.0, "cluster.bits": 2},
        {"prune.sparsity": 0.2, "cluster.bits": 4},
        {"prune.sparsity": 0.05, "cluster.bits": 32},
        {"prune.sparsity": 0.84, "cluster.bits": 4},
        {"prune.sparsity": 0.6, "cluster.bits": 4},
        {"prune.sparsity": 0.501, "cluster.bits": 4},
    ]
    (HERE / "first_trials.json").write_text(json.dumps(vectors, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as aside:
        for name in ("experiment", "weights.safetensors", "first_trials.json"):
            link = Path(aside, name)
            link.symlink_to(HERE / name)
        command = [sys.executable, "-m", "sweeps.run", "--config-dir=experiment", "+exp=written_before"]
        subprocess.run(command, cwd=aside, check=True, env={**os.environ, "PYTHONPATH": search_path()})
        kept.mkdir()
        for name in ("journal.log", "config.yaml", "rungs.jsonl", "results.parquet", "meta.json"):
            if Path(aside, "study", name).is_file():
                shutil.copy(Path(aside, "study", name), kept)
        shutil.copytree(Path(aside, "study", "front"), kept / "front")
    scrub(kept / "journal.log")


def search_path() -> str:
    """Return the folders that modules are found in, as they are from any folder."""
    return os.pathsep.join(str(HERE.parent.parent / folder) for folder in (".", "tests/support"))


def scrub(path: Path) -> None:
    """Replace the name of this machine."""
    path.write_text(path.read_text().replace(json.dumps(platform.node()), '"elsewhere"'))


def write_search() -> None:
    """Write the study of a search as a library over a function."""
    SEARCH.parent.mkdir(exist_ok=True)
    SEARCH.unlink(missing_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searched(SEARCH, 8)
    scrub(SEARCH)


if __name__ == "__main__":
    main()
