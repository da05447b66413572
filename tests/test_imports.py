"""Which room may import which, and what an import of each costs.

The order of the rooms is written down in pyproject.toml, section `tool.importlinter`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_imports_follow_the_order_of_the_rooms() -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys; print(' '.join(m for m in sys.modules if m.count('.') < 2))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tune_swa", {"torch", "ray", "optuna", "pandas", "pydantic"}),
        ("import tune_swa.cli", {"torch", "ray", "optuna", "pandas", "pydantic", "rich"}),
        ("import tune_swa.doctor.checks", {"torch", "ray", "pydantic", "rich"}),
        ("import tune_swa.data", {"torch", "ray"}),
        (
            "import tune_swa; tune_swa.load_results",
            {"torch", "ray", "optuna", "plotly", "scipy.stats", "scipy.optimize", "sklearn"},
        ),
        (
            "import tune_swa.tracking.optuna_log, tune_swa.monitoring.result_writer",
            {"torch", "ray", "optuna"},
        ),
        ("import tune_swa.training.run", {"ray", "optuna"}),
        ("import tune_swa; tune_swa.search", {"torch", "ray", "optuna", "pandas", "numpy", "IPython"}),
        # the driver of a search does without torchvision, whose import takes a second
        ("import tune_swa.execution.session", {"torchvision", "scipy.stats", "sklearn"}),
        # Ray starts before these are imported
        ("import tune_swa.execution.run", {"torch", "ray", "pandas", "plotly", "scipy.stats", "sklearn"}),
    ],
)
def test_heavy_packages_are_imported_only_where_needed(statement: str, absent: set[str]) -> None:
    assert not modules_after(statement) & absent


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    import tune_swa

    with pytest.raises(AttributeError, match="no attribute 'load_result'"):
        tune_swa.load_result  # noqa: B018
