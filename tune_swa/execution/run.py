"""Run one search from its request to its result."""

from __future__ import annotations

import importlib.util

from tune_swa.data.dataset import Dataset
from tune_swa.execution.preparation import Preparation
from tune_swa.execution.request import Outcome, Request
from tune_swa.execution.request_checks import check_request
from tune_swa.execution.site import open_site
from tune_swa.experiment.folder import lock_experiment
from tune_swa.monitoring.log_file import log_file
from tune_swa.search.samplers import quiet_optuna

LATER = (
    "torch",
    "torchvision",
    "sklearn",
    "scipy",
    "optuna",
    "pandas",
    "pyarrow",
    "plotly",
    "jinja2",
    "tensorboardX",
)
"""Packages that are imported when Ray has started and the images are decoded."""


def run_search(request: Request) -> Outcome:
    """Run a search, or continue one.

    Once the request has been checked, Ray and its first workers start while torch is imported and the images
    are found and decoded. So what imports torch or Ray is not imported above.

    Raises:
        RequestError: the request is wrong; nothing was trained.
        SearchFailed: no trial completed, or a disk or Ray refused.
        Interrupted: a signal ended it; the journal has everything.
        ModuleNotFoundError: a package is not installed; nothing was decoded.
    """
    _check_packages()
    quiet_optuna()
    with lock_experiment(request.folder), log_file(request.folder) as log:
        checked = check_request(request)
        request = checked.request
        import ray  # noqa: F401 - before the thread begins, which would share the interpreter with it

        with Preparation(request) as preparation:

            def await_images() -> Dataset:
                data = preparation.wait_for_result().data
                # while workers start, and after the thread: what two threads import at once may fail to load
                import tune_swa.execution.session  # noqa: F401

                return data

            with open_site(request, checked.state, checked.machine, await_images) as site:
                from tune_swa.execution.session import run_session

                return run_session(checked, preparation.wait_for_result(), site, log)


def _check_packages() -> None:
    for package in LATER:
        if importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
