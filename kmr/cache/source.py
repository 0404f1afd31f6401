"""Source of one module, taken apart: its definitions, its imports, and the statements that run on import.

The text of a part says what the code does: comments, docstrings, layout and the version of Python do not change it.
"""

import ast
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kmr.cache.modules import file_of

_LOOKS_UP_BY_NAME = frozenset({"globals", "locals", "eval", "exec", "__subclasses__"})


@dataclass(frozen=True)
class Import:
    """An imported module, or a name in it."""

    module: str
    name: str | None = None


@dataclass
class Source:
    """The parts of a module.

    `definitions` are the functions, classes and constants at its top level; `imports` what each imported name stands
    for, in functions too; `statements` the rest that runs on import, and `runs` the modules that are imported then.
    `stars` are the modules of `from … import *`. `by_name` are modules whose names may be looked up by a string.
    """

    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, list[Import]] = field(default_factory=dict)
    statements: list[ast.stmt] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    stars: list[str] = field(default_factory=list)
    by_name: list[str] = field(default_factory=list)


def source_of(module: str) -> Source | None:
    """Return the parts of a module with Python source; a file that changes is read again."""
    file = file_of(module)
    if file is None or file.suffix != ".py":
        return None
    stamp = file.stat()
    return _read(module, file, (stamp.st_mtime_ns, stamp.st_size))


def text_of(nodes: Sequence[ast.AST]) -> str:
    """Return what code does, as text that is the same for the same code."""
    return " ".join(map(_text, nodes))


def names_in(node: ast.AST) -> Iterator[list[str]]:
    """Yield the names that code reads, each with the attributes that follow it: `helpers.scale` as two parts."""
    chain: list[str] = []
    inner = node
    while isinstance(inner, ast.Attribute):
        chain.insert(0, inner.attr)
        inner = inner.value
    if isinstance(inner, ast.Name):
        yield [inner.id, *chain]
        return
    for child in ast.iter_child_nodes(inner):
        yield from names_in(child)


@functools.lru_cache(maxsize=4096)
def _read(module: str, file: Path, stamp: tuple[int, int]) -> Source | None:
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return None
    source = Source()
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for statement in _run_on_import(tree.body):
        _sort(statement, source, package)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            _bind(node, source, package)
        elif isinstance(node, ast.Call):
            _look_up(node, source, module)
    return source


def _run_on_import(body: Sequence[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements that run on import, without those for a script and for type checkers."""
    for statement in body:
        if isinstance(statement, ast.If):
            asked = {part for chain in names_in(statement.test) for part in chain}
            if asked & {"__name__", "TYPE_CHECKING"}:
                yield from _run_on_import(statement.orelse)
                continue
        if not _does_nothing(statement):
            yield statement


def _sort(statement: ast.stmt, source: Source, package: str) -> None:
    """Add a statement at the top level to the part it belongs to."""
    for node in ast.walk(statement) if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef) else ():
        if isinstance(node, ast.Import | ast.ImportFrom):
            source.runs.extend(_modules(node, package))
    match statement:
        case ast.Import() | ast.ImportFrom():
            pass
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            source.definitions.setdefault(name, []).append(statement)
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            pass
        case (
            ast.Assign(targets=[ast.Name(id=name)], value=value) | ast.AnnAssign(target=ast.Name(id=name), value=value)
        ):
            if value is None or not any(isinstance(node, ast.Call) for node in ast.walk(value)):
                source.definitions.setdefault(name, []).append(statement)
            else:
                source.statements.append(statement)  # the call may do more than return a value
        case _:
            source.statements.append(statement)


def _bind(node: ast.Import | ast.ImportFrom, source: Source, package: str) -> None:
    """Note what each name of an import stands for."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            name = alias.asname or alias.name.partition(".")[0]
            source.imports.setdefault(name, []).append(Import(alias.name if alias.asname else name))
        return
    module = _absolute(node, package)
    for alias in node.names:
        if alias.name == "*":
            source.stars.append(module)
        else:
            source.imports.setdefault(alias.asname or alias.name, []).append(Import(module, alias.name))


def _modules(node: ast.Import | ast.ImportFrom, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    module = _absolute(node, package)
    return [module, *(f"{module}.{alias.name}" for alias in node.names if alias.name != "*")]


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _look_up(call: ast.Call, source: Source, module: str) -> None:
    """Note the module whose names a call may look up by a string."""
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    if name in _LOOKS_UP_BY_NAME or (name == "vars" and not call.args):
        source.by_name.append(module)
    elif name in ("import_module", "__import__") and call.args:
        match call.args[0]:
            case ast.Constant(value=str() as imported):
                source.by_name.append(imported)


def _text(value: object) -> str:
    match value:
        case ast.AST():
            fields = ((name, getattr(value, name, None)) for name in value._fields if name not in ("kind", "ctx"))
            shown = [f"{name}={_text(part)}" for name, part in fields if part is not None and part != []]
            return f"{type(value).__name__}({' '.join(shown)})"
        case list():
            return f"[{' '.join(_text(part) for part in value if not _does_nothing(part))}]"
        case _:
            return repr(value)


def _does_nothing(part: object) -> bool:
    """Tell whether a statement has no effect: a docstring, `pass` or `...`."""
    match part:
        case ast.Pass() | ast.Expr(value=ast.Constant()):
            return True
        case _:
            return False
