"""Search hyperparameters of stochastic weight averaging, and say honestly what it gains."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_swa.results.api import load_results

__all__ = ["__version__", "load_results"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tune_swa.load_results`, imported when it is asked for: pandas takes its time."""
    if name == "load_results":
        from tune_swa.results.api import load_results

        return load_results
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
