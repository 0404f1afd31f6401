"""Tables of the manual, made from `conf/`, the config's schema and docstrings whenever the site is built.

A page asks for one with `<!-- table: rules -->`; `python docs/generate.py rules` prints it. A page can also include a
file of the root (`<!-- include: README.md -->`), and ask for the reference of public names
(`<!-- api: sweeps search -->`). MkDocs loads this file as a hook.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import yaml

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = "sweeps.experiment.config"
"""The module of the config's schema."""
ASKED = re.compile(r"<!-- (table|include|api): ([^>]*?) -->")


def rules() -> str:
    """List every rule of `conf/rule` with its knobs."""
    rows = []
    for name, entry in parts("rule").items():
        found = located(entry["_target_"])
        rows.append((f"`{name}`", summary(found), _knobs(found, name, entry), f"`{found.lowers}`"))
    return table(("rule", "what it does", "knobs", "lowers"), rows)


def meters() -> str:
    """List every meter of `conf/meter` with its kind, direction and unit."""
    rows = []
    for name, entry in parts("meter").items():
        found = located(entry["_target_"])
        kind = "cost" if issubclass(found, import_module("kmr.core").Cost) else "quality"
        known = "yes" if found.static else ""
        rows.append((f"`{name}`", kind, found.direction, found.unit or "of its `quality`", known, summary(found)))
    return table(("meter", "kind", "direction", "unit", "known before training", "what it reads"), rows)


def samplers() -> str:
    """List every sampler of `conf/sampler`."""
    return _listed("sampler")


def policies() -> str:
    """List every policy of `conf/policy`."""
    return _listed("policy")


def criteria() -> str:
    """List every criterion of `conf/criterion`."""
    return _listed("criterion")


def recipes() -> str:
    """List every fine-tuning recipe of `conf/finetune`."""
    rows = []
    for name, entry in parts("finetune").items():
        optimizer = entry.get("optimizer", {})
        settings = ", ".join(f"{key} {value}" for key, value in optimizer.items() if not key.startswith("_"))
        trained = f"`{optimizer['_target_'].rpartition('.')[2]}`: {settings}" if optimizer else "none"
        said = comment("finetune", name) or summary(located(entry["_target_"]))
        rows.append((f"`{name}`", said, trained))
    return table(("recipe", "what it does", "optimizer"), rows)


def experiments() -> str:
    """List every experiment of `conf/exp` with its rules and objectives."""
    rows = []
    for name, entry in parts("exp").items():
        parent = [f"those of {each}" for each in entry["defaults"] if isinstance(each, str) and each != "_self_"]
        chosen = next((each["/rule"] for each in entry["defaults"] if "/rule" in each), parent)
        named = [chosen] if isinstance(chosen, str) else chosen
        wanted = entry.get("objectives", parent)
        rows.append((f"`{name}`", comment("exp", name), ", ".join(named), ", ".join(wanted), str(entry["trials"])))
    return table(("experiment", "what it is", "rules", "objectives", "trials"), rows)


def keys() -> str:
    """List every key of the config with its default and its meaning, which is its attribute docstring in the schema."""
    return table(("key", "default", "meaning"), list(_keys(import_module(SCHEMA).Config)))


TABLES: Mapping[str, Callable[[], str]] = {
    "rules": rules, "meters": meters, "samplers": samplers, "policies": policies, "criteria": criteria,
    "recipes": recipes, "experiments": experiments, "keys": keys,
}  # fmt: skip


def parts(group: str) -> dict[str, Any]:
    """Return the parsed YAML of every part of a config group, by name."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / "conf" / group).glob("*.yaml"))}


def comment(group: str, name: str) -> str:
    """Return the words of the comment a part begins with, without its package line and its commands."""
    words = []
    for line in (ROOT / "conf" / group / f"{name}.yaml").read_text().splitlines():
        if "@package" in line:
            continue
        if not line.strip("# ") or not line.startswith("#") or "python -m" in line:
            break
        words.append(line.lstrip("# ").strip())
    return " ".join(words)


def located(target: str) -> Any:
    """Return the class or function that a `_target_` names."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def summary(found: Any) -> str:
    """Return the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def meanings(schema: type) -> dict[str, str]:
    """Return the docstring that follows each attribute of a class, by attribute."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for entry, after in zip(body.body, [*body.body[1:], None], strict=True):
        if isinstance(entry, ast.AnnAssign) and isinstance(entry.target, ast.Name):
            said = after.value if isinstance(after, ast.Expr) else None
            text = said.value if isinstance(said, ast.Constant) and isinstance(said.value, str) else ""
            found[entry.target.id] = " ".join(text.split())
    return found


def _keys(schema: Any, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    types, said = get_type_hints(schema), meanings(schema)
    for entry in dataclasses.fields(schema):
        if dataclasses.is_dataclass(types[entry.name]):
            yield from _keys(types[entry.name], f"{prefix}{entry.name}.")
            continue
        made = entry.default_factory() if callable(entry.default_factory) else entry.default
        default = yaml.safe_dump(made, default_flow_style=True, width=1000).replace("\n...", "").strip()
        yield f"`{prefix}{entry.name}`", f"`{default}`", said[entry.name]


def _listed(group: str) -> str:
    rows = []
    for name, entry in parts(group).items():
        target = entry["_target_"]
        home = target if not target.startswith("optuna") else f"Optuna's `{target.rpartition('.')[2]}`"
        rows.append((f"`{name}`", summary(located(target)), home if "`" in home else f"`{home}`"))
    return table((group, "what it does", "code"), rows)


def _knobs(found: Any, name: str, entry: Mapping[str, Any]) -> str:
    """Return a rule's knobs with their domains, which the data and models that it is handed do not decide."""
    fields = {field.name: field for field in dataclasses.fields(found) if field.init}
    plain = {key: value for key, value in entry.items() if key in fields and not isinstance(value, Mapping)}
    torch, split = import_module("torch"), import_module("kmr.data").Split
    data, model = split((torch.zeros(1, 1), torch.zeros(1))), torch.nn.Identity()
    live = {"data": data, "example_inputs": torch.zeros(1, 1), "original": model, "finetune": model}
    handed = {key: value for key, value in live.items() if key in fields}
    knobs = found(**{**handed, **plain, "name": name}).knobs
    return "; ".join(f"`{knob.name}` {knob.domain}" for knob in knobs)


def _included(name: str) -> str:
    """Return a file of the root with its links seen from `docs/`; the repository's own files have pages there."""
    pages = {"](docs/": "](", "](CONTRIBUTING.md": "](contributing.md", "](README.md": "](index.md"}
    return re.sub("|".join(map(re.escape, pages)), lambda link: pages[link[0]], (ROOT / name).read_text())


def _reference(words: str) -> str:
    module, *names = words.split()
    homes = [getattr(import_module(module), name) for name in names]
    return "\n\n".join(f"::: {home.__module__}.{home.__qualname__}" for home in homes)


def fill(markdown: str) -> str:
    """Return a page with everything it asks for."""
    made: Mapping[str, Callable[[str], str]] = {
        "table": lambda name: TABLES[name](), "include": _included, "api": _reference,
    }  # fmt: skip
    return ASKED.sub(lambda found: made[found[1]](found[2]), markdown)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill a page: what MkDocs calls."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return fill(markdown)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    asked = sys.argv[1:]
    if not asked or any(name not in TABLES for name in asked):
        sys.exit(f"error: name a table: {', '.join(TABLES)}")
    print("\n\n".join(TABLES[name]() for name in asked))
