"""Code that decides a result: everything that a function or class reaches by name, as digests.

The search starts at a definition and follows the names it reads: to other definitions in its module, and through
imports to other modules. Statements that run when a reached module is imported count too. A module whose names are
looked up by a string counts whole. The search ends at installed libraries, which count by their version, and at this
project, which counts by modules: the one reached and those it imports.
"""

import ast
import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import CodeType, FunctionType
from typing import Any

from kmr.cache.modules import Home, file_of, home_of, version_of
from kmr.cache.source import Import, Source, names_in, source_of, text_of


@dataclass
class Code:
    """The code behind a result.

    `definitions` are digests by dotted name, a module's own name for the statements that run on its import; `modules`
    are this project's modules; `libraries` are versions by name.
    """

    definitions: dict[str, str] = field(default_factory=dict)
    modules: set[str] = field(default_factory=set)
    libraries: dict[str, str] = field(default_factory=dict)

    @functools.cached_property
    def digest(self) -> str:
        """The digest of all of it, with what this project's modules import."""
        modules, libraries = _with_imports(frozenset(self.modules))
        return _sha([sorted(self.definitions.items()), modules, sorted({**libraries, **self.libraries}.items())])

    def as_plain(self) -> dict[str, str]:
        """Return digests and versions by name; this project's modules are together `kmr`."""
        modules, libraries = _with_imports(frozenset(self.modules))
        return {**self.definitions, **({"kmr": _sha(modules)} if modules else {}), **libraries, **self.libraries}


def code_of_all(named: Iterable[Any]) -> dict[str, str]:
    """Return the digests and versions of the code behind several functions and classes, and torch's version."""
    every = [code_behind(each) for each in named]
    together = Code(
        {name: digest for code in every for name, digest in code.definitions.items()},
        {module for code in every for module in code.modules},
        {name: version for code in every for name, version in code.libraries.items()},
    )
    return {"torch": version_of("torch"), **together.as_plain()}


@functools.lru_cache(maxsize=4096)
def code_behind(named: Any) -> Code:
    """Return the code behind a function or class."""
    reach = _Reach()
    reach.definition(str(getattr(named, "__module__", None)), str(named.__qualname__).partition(".")[0], named)
    return reach.code


class _Reach:
    """Search of the code behind a definition."""

    def __init__(self) -> None:
        self.code = Code()
        self._seen: set[tuple[str, str | None]] = set()

    def definition(self, module: str, name: str, live: Any = None) -> None:
        """Add a definition, or whatever the module has under its name."""
        if (module, name) in self._seen or self._is_elsewhere(module):
            return
        self._seen.add((module, name))
        source = source_of(module)
        if source is None:
            self.code.definitions[f"{module}.{name}"] = _compiled(live) if live is not None else _bytes_of(module)
            return
        self.statements(module)
        nodes = source.definitions.get(name, [])
        methods: dict[str, list[ast.stmt]] = {}
        for node in nodes:
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    key = part.name if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef) else ""
                    methods.setdefault(key, []).append(part)
                frame = [*node.decorator_list, *node.bases, *node.keywords]
                self._add(module, source, f"{module}.{name}", [*frame, *methods.pop("", [])])
            else:
                self._add(module, source, f"{module}.{name}", nodes)
        for method, parts in methods.items():
            self._add(module, source, f"{module}.{name}.{method}", parts)
        if not nodes:
            for imported in source.imports.get(name, ()):
                self._follow(imported, [])
            for star in source.stars:
                self.definition(star, name)

    def statements(self, module: str) -> None:
        """Add what runs when a module is imported, and when those are that it imports."""
        if (module, None) in self._seen or self._is_elsewhere(module, used=False):
            return
        self._seen.add((module, None))
        package = module.rpartition(".")[0]
        if package:
            self.statements(package)
        source = source_of(module)
        if source is None:
            return
        if source.statements:
            self._add(module, source, module, source.statements)
        for run in source.runs:
            self.statements(run)
        for looked_up in source.by_name:
            self._whole(looked_up)

    def _whole(self, module: str) -> None:
        source = None if self._is_elsewhere(module) else source_of(module)
        self.statements(module)
        for name in source.definitions if source is not None else ():
            self.definition(module, name)

    def _add(self, module: str, source: Source, key: str, nodes: Sequence[ast.AST]) -> None:
        """Add the digest of some nodes, with what their imported names stand for, and follow their names."""
        used = set()
        for chain in (chain for node in nodes for chain in names_in(node)):
            if chain[0] in source.definitions or source.stars:
                self.definition(module, chain[0])
            for imported in source.imports.get(chain[0], ()):
                used.add(f"{chain[0]}={imported.module}:{imported.name}")
                self._follow(imported, chain[1:])
        self.code.definitions[key] = _sha([text_of(nodes), sorted(used)])

    def _follow(self, imported: Import, attributes: Sequence[str]) -> None:
        module = imported.module
        names = [imported.name, *attributes] if imported.name is not None else [*attributes]
        while names and home_of(module) in (Home.OWN, Home.PROJECT) and file_of(f"{module}.{names[0]}") is not None:
            module = f"{module}.{names.pop(0)}"
        if names:
            self.definition(module, names[0])
        else:
            self._whole(module)

    def _is_elsewhere(self, module: str, *, used: bool = True) -> bool:
        """Tell whether a module's source does not count itself; if it is used, note its library or project module."""
        match home_of(module):
            case Home.STANDARD:
                return True
            case Home.LIBRARY:
                top = module.partition(".")[0]
                if used:
                    self.code.libraries[top] = version_of(top)
                return True
            case Home.PROJECT:
                if used:
                    self.code.modules.add(module)
                return True
            case Home.OWN | Home.NO_FILE:
                return False


_IMPORTS = re.compile(r"^[ \t]*(?:from ([\w.]+) import (\([^)]*\)|.*)|import ([\w.]+))", re.MULTILINE)


@functools.cache
def _imports_of(module: str) -> tuple[str, frozenset[str], dict[str, str]]:
    """Return the digest of a project module, the project's modules it imports, and the versions of its libraries.

    A pattern finds the imports, because parsing the project would take longer than a small trial.
    """
    file = file_of(module)
    if file is None:
        return "", frozenset(), {}
    text = file.read_text(encoding="utf-8")
    modules, libraries = set(), {}
    for origin, names, plain in _IMPORTS.findall(text):
        imported = origin or plain
        match home_of(imported):
            case Home.PROJECT:
                inner = {f"{imported}.{name}" for name in re.findall(r"\w+", names)}
                modules |= {imported, *(name for name in inner if file_of(name) is not None)}
            case Home.LIBRARY:
                top = imported.partition(".")[0]
                libraries[top] = version_of(top)
            case _:
                pass
    return _sha(text), frozenset(modules), libraries


@functools.cache
def _with_imports(modules: frozenset[str]) -> tuple[list[tuple[str, str]], dict[str, str]]:
    """Return the digests of project modules and of all that they import, and the versions of their libraries.

    `kmr.cache` is left out: it returns results unchanged.
    """
    found: dict[str, str] = {}
    libraries: dict[str, str] = {}
    waiting = set(modules)
    while waiting:
        module = waiting.pop()
        digest, imported, used = _imports_of(module)
        found[module] = digest
        libraries |= used
        waiting |= {name for name in imported - found.keys() if not name.startswith("kmr.cache")}
    return sorted(found.items()), libraries


def _compiled(live: Any) -> str:
    """Return the digest of a function or class without a source file, such as one from a notebook."""
    seen: set[int] = set()
    parts: list[Any] = []

    def visit(value: Any, home: str) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, property | staticmethod | classmethod):
            for inner in (getattr(value, "fget", None), getattr(value, "__func__", None)):
                visit(inner, home)
        elif isinstance(value, FunctionType) and value.__module__ == home:
            parts.append([value.__qualname__, _instructions(value.__code__), repr(value.__defaults__)])
            for name in value.__code__.co_names:
                visit(value.__globals__.get(name), home)
        elif isinstance(value, type) and value.__module__ == home:
            parts.append([value.__qualname__, [base.__qualname__ for base in value.__bases__]])
            for name, part in sorted(vars(value).items()):
                parts.append([name, part] if isinstance(part, int | float | str | None) and name != "__doc__" else name)
                visit(part, home)
            for base in value.__bases__:
                visit(base, home)

    visit(live, live.__module__)
    return _sha(parts)


def _instructions(code: CodeType) -> list[Any]:
    constants = [_instructions(part) if isinstance(part, CodeType) else part for part in code.co_consts]
    return [code.co_code.hex(), constants, code.co_names, code.co_varnames]


def _bytes_of(module: str) -> str:
    file = file_of(module)
    return hashlib.sha256(b"" if file is None else file.read_bytes()).hexdigest()[:16]


def _sha(value: Iterable[Any]) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:32]
