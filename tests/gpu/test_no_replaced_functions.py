"""GPUs are made up behind torch's front end: a replaced `torch.cuda` function hides what it checks."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
BOUNDARY = {"_lazy_init", "_initialized", "_cudart", "_cached_device_count"}
"""Names in torch.cuda behind which there is C, or that hold what it found."""


def find_replacements(source: str) -> Iterator[str]:
    """Places in a test that replace something of `torch.cuda`, each as `line: code`."""
    tree = ast.parse(source)
    aliases = {
        (name.asname or name.name): f"{node.module}.{name.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    aliases |= {
        name.asname: name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
        if name.asname
    }

    def read_name(node: ast.expr) -> str:
        """The dotted name behind an expression or in a string."""
        if isinstance(node, ast.Constant):
            return str(node.value)
        first, dot, rest = ast.unparse(node).partition(".")
        return aliases.get(first, first) + dot + rest

    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Call) and node.args:
            called = ast.unparse(node.func).rpartition(".")[2]
            target = read_name(node.args[0])
            if called in ("setattr", "delattr", "object", "patch"):
                by_name = isinstance(node.args[0], ast.Constant)
                names = [target] if by_name else [f"{target}.{read_name(a)}" for a in node.args[1:2]]
        elif isinstance(node, ast.Assign):
            names = [read_name(t) for t in node.targets if isinstance(t, ast.Attribute)]
        found = [n for n in names if n.startswith("torch.cuda.") and n.rpartition(".")[2] not in BOUNDARY]
        if found and isinstance(node, ast.stmt | ast.expr):
            yield f"{node.lineno}: {ast.unparse(node)}"


def test_no_test_replaces_a_function_of_torch_cuda() -> None:
    found = {
        str(file.relative_to(TESTS)): places
        for file in TESTS.rglob("*.py")
        if file.parent != Path(__file__).resolve().parent
        and (places := list(find_replacements(file.read_text(encoding="utf-8"))))
    }
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        "monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)",
        "monkeypatch.setattr('torch.cuda.device_count', lambda: 4)",
        "patch.setattr(torch.cuda.memory, 'mem_get_info', f)",
        "setattr(torch.cuda, name, f)",
        "torch.cuda.device_count = lambda: 4",
        "mock.patch('torch.cuda.is_available')",
        "mock.patch.object(torch.cuda, 'is_available')",
        "from torch import cuda\nmonkeypatch.setattr(cuda, 'device_count', f)",
        "import torch.cuda as c\nmonkeypatch.setattr(c, 'device_count', f)",
        "from torch.cuda import memory\nmonkeypatch.setattr(memory, 'mem_get_info', f)",
    ],
)
def test_a_replaced_function_is_found(code: str) -> None:
    assert len(list(find_replacements(code))) == 1


@pytest.mark.parametrize(
    "code",
    [
        "monkeypatch.setattr(torch._C, '_cuda_getDeviceCount', lambda: 4)",
        "monkeypatch.setattr('torch._C._cuda_getDeviceCount', lambda: 4)",
        "monkeypatch.setattr(torch.cuda, '_lazy_init', lambda: None)",
        "count = torch.cuda.device_count()",
        "monkeypatch.setattr(runner, 'train_trial', f)",
        "raise torch.cuda.OutOfMemoryError('too much')",
    ],
)
def test_what_is_behind_the_front_end_may_be_replaced(code: str) -> None:
    assert not list(find_replacements(code))
