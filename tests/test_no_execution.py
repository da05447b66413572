"""What the package reads is never run: no pickles, no eval, weights as weights only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tune_swa"
MODULES = sorted(PACKAGE.rglob("*.py"))

EXECUTING = {
    *("pickle", "_pickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"),
    *("code", "runpy"),
}
"""Modules that run, or build any object from, what they read."""
NEVER = {
    *(f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__")),
    *(f"yaml.{name}{all_}" for name in ("load", "full_load", "unsafe_load") for all_ in ("", "_all")),
    *(f"yaml.{name}" for name in ("Loader", "CLoader", "FullLoader", "UnsafeLoader")),
    *("pandas.read_pickle", "torch.hub.load", "torch.jit.load"),
}
WITH_WEIGHTS_ONLY = {"load_state_dict_from_url", "get_state_dict"}
"""Beside torch.load: what torchvision downloads is unpickled too."""


class Finder(ast.NodeVisitor):
    """Notes what could run the content of a file, by its full name, whatever it is called here."""

    def __init__(self) -> None:
        self.full = {
            name: f"builtins.{name}" for name in ("eval", "exec", "compile", "__import__", "getattr")
        }
        self.found: list[str] = []

    def note(self, node: ast.AST, what: str) -> None:
        self.found.append(f"line {node.lineno}: {what}")  # type: ignore[attr-defined]

    def name_of(self, node: ast.AST) -> str:
        """The dotted name of an expression as imported; empty if it has none."""
        if isinstance(node, ast.Name):
            return self.full.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self.name_of(node.value)}.{node.attr}"
        if isinstance(node, ast.Call) and self.name_of(node.func) == "builtins.getattr":
            return f"{self.name_of(node.args[0])}.{constant(node.args[1])}"
        return ""

    def imports(self, node: ast.AST, module: str) -> None:
        if EXECUTING & set(module.split(".")):
            self.note(node, module)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            self.imports(node, alias.name)
            if alias.asname:
                self.full[alias.asname] = alias.name

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            self.imports(node, f"{node.module}.{alias.name}")
            self.full[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if alias.name == "*" or f"{node.module}.{alias.name}" in NEVER:
                self.note(node, f"{node.module}.{alias.name}")

    def visit_Call(self, node: ast.Call) -> None:
        name = self.name_of(node.func)
        keywords = {k.arg: constant(k.value) for k in node.keywords}
        if keywords.get("weights_only", True) is not True or keywords.get("allow_pickle", False) is not False:
            self.note(node, ast.unparse(node))
        if name == "importlib.import_module":
            # a name that is not written out could be any
            self.imports(node, str(constant(node.args[0]) or "pickle"))
        if loads(name):
            if keywords.get("weights_only") is not True:
                self.note(node, f"{name} without weights_only=True")
            for child in (*node.args, *node.keywords):  # the function's own name is judged
                self.visit(child)
            return
        self.reference(node)
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self.reference(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.reference(node)
        self.generic_visit(node)

    def reference(self, node: ast.AST) -> None:
        name = self.name_of(node)
        dynamic = name.endswith(".None") and name.split(".")[0] in ("torch", "yaml", "pandas", "builtins")
        if name in NEVER or loads(name) or dynamic:  # passed on, it would be called where nobody looks
            self.note(node, name)


def constant(node: ast.AST) -> object:
    return node.value if isinstance(node, ast.Constant) else None


def loads(name: str) -> bool:
    """Whether this is a function of torch's or torchvision's that unpickles unless it is told not to."""
    owner, _, last = name.rpartition(".")
    if last == "load":
        return owner in ("torch", "torch.serialization")
    return owner != "" and last in WITH_WEIGHTS_ONLY


def executed(text: str) -> list[str]:
    finder = Finder()
    finder.visit(ast.parse(text))
    return finder.found


NO_FILES = {
    "__init__.py": ["pickle", "pickle"],  # imports its own modules, by names that it lists
    "execution/session.py": ["pickle"],  # for its workers, through Ray's object store ...
    "execution/trial_context.py": ["pickle"],  # ... where they get it from
    "plugin_files.py": ["pickle", "builtins.exec", "builtins.compile"],  # what --plugin names, to run it
}
"""What is found where nothing that was read from a file of data is run."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    found = [line.partition(": ")[2] for line in executed(path.read_text())]
    assert sorted(found) == sorted(NO_FILES.get(str(path.relative_to(PACKAGE)), []))


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(text)",
        "list(map(eval, texts))",
        "compile(text, '', 'exec')",
        "import builtins; builtins.exec(text)",
        "__import__('pickle').loads(content)",
        "import importlib; importlib.import_module('pickle')",
        "from importlib import import_module as get; get('ray.cloudpickle')",
        "import importlib; importlib.import_module(name)",
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from ray import cloudpickle",
        "import joblib.numpy_pickle",
        "def load():\n    import marshal",
        "import shelve",
        "import yaml; yaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml; yaml.unsafe_load(text)",
        "from yaml import full_load",
        "import yaml as y; class_ = y.UnsafeLoader",
        "import pandas as pd; pd.read_pickle(path)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "import numpy as np; np.load(path, allow_pickle=wanted)",
        "import torch; torch.load(path)",
        "import torch; torch.load(path, weights_only=False)",
        "import torch; torch.load(path, weights_only=wanted)",
        "import torch; torch.load(path, **options)",
        "import torch as t; t.load(path)",
        "from torch import load; load(path)",
        "from torch import load as read; read(path)",
        "import torch; read = torch.load",
        "import torch; getattr(torch, 'load')(path)",
        "import torch; getattr(torch, name)(path)",
        "from torch import *",
        "import torch; torch.hub.load(repository, name)",
        "from torch.hub import load_state_dict_from_url as get; get(url)",
        "entry.get_state_dict(progress=False)",
    ],
)
def test_what_would_be_executed_is_found(text: str) -> None:
    assert executed(text)


@pytest.mark.parametrize(
    "text",
    [
        "import torch; torch.load(path, map_location='cpu', weights_only=True)",
        "from torch import load; load(path, weights_only=True)",
        "import torch; torch.compile(model)",
        "import re; re.compile('x')",
        "import numpy as np; np.load(path, mmap_mode='r', allow_pickle=False)",
        "import yaml; yaml.safe_load(text)",
        "from tune_swa import spacefile; spacefile.load(path)",
        "import importlib; importlib.import_module('ray._private.worker')",
    ],
)
def test_what_is_harmless_is_left_alone(text: str) -> None:
    assert executed(text) == []
