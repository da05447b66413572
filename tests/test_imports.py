"""Which package may import which, and what an import of each costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tune_swa"
BASE = {"errors", "randomness", "paths"}
SHOWN = {"distributions", "news"}  # what search and results have in common for other programs
ALLOWED = {
    "errors": set(),
    "randomness": set(),
    "paths": {"errors"},
    "isolation": {"errors"},
    "storage": BASE,
    "supervisor": set(),
    "spec": BASE,
    "spacefile": BASE | {"spec"},
    "distributions": BASE | {"spec"},
    "journal": BASE | {"spec"},
    "news": BASE | {"journal"},
    "inference": BASE,
    "predictions": BASE | {"journal"},
    "judging": BASE | {"journal", "inference", "predictions"},
    "data": BASE | {"spec"},
    "training": BASE | {"spec", "data", "isolation"},
    "search": BASE
    | {"spec", "data", "training", "inference", "predictions", "judging", "journal", "storage", "supervisor"}
    | {"isolation"}
    | SHOWN,
    "results": BASE
    | {"spec", "spacefile", "inference", "predictions", "judging", "journal", "storage"}
    | SHOWN,
    "doctor": BASE | {"spec", "data", "training", "search", "journal", "storage", "isolation"},
    "cli": BASE
    | {"spec", "spacefile", "inference", "data", "training", "search", "results", "journal", "storage"}
    | {"supervisor", "doctor"}
    | SHOWN,
}
HEAVY = {
    "ray": {"search"},
    "optuna": {"search", "results", "distributions"},
    "torch": {"data", "training", "search"},
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Dotted names of everything that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    own = {n.split(".")[1] for n in imported(path) if n.startswith("tune_swa.")} - {here, "__version__"}
    assert own <= ALLOWED[here], f"{path} imports {own - ALLOWED[here]}"
    for heavy, rooms in HEAVY.items():
        if here not in rooms:
            assert heavy not in {n.split(".")[0] for n in imported(path)}


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(m for m in sys.modules if m.count('.') < 2))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tune_swa", {"torch", "ray", "optuna", "pandas", "pydantic"}),
        ("import tune_swa.cli", {"torch", "ray", "optuna", "pandas", "pydantic", "rich"}),
        ("import tune_swa.doctor.checks, tune_swa.doctor.output", {"torch", "ray", "pydantic", "rich"}),
        ("import tune_swa.data", {"torch", "ray"}),
        (
            "import tune_swa; tune_swa.load_results",
            {"torch", "ray", "optuna", "plotly", "scipy.stats", "scipy.optimize", "sklearn"},
        ),
        (
            "import tune_swa.tracking.optuna_log, tune_swa.monitoring.result_refresh",
            {"torch", "ray", "optuna"},
        ),
        ("import tune_swa.training.run", {"ray", "optuna"}),
    ],
)
def test_heavy_packages_are_imported_only_where_needed(statement: str, absent: set[str]) -> None:
    assert not modules_after(statement) & absent


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    import tune_swa

    with pytest.raises(AttributeError, match="no attribute 'load_result'"):
        tune_swa.load_result  # noqa: B018
