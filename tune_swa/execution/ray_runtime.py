"""Start and stop Ray: quiet, with the planned number of slots, and without a dashboard."""

from __future__ import annotations

import importlib
import logging
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tune_swa.errors import RequestError, SearchFailed
from tune_swa.execution import first_worker, ray_setup
from tune_swa.execution.ray_environment import (
    concerns_tune,
    kept_variables,
    local_ray_environment,
    patient_start,
)
from tune_swa.execution.slots import Machine, Node, Placement
from tune_swa.signals import ignore_in_children, interrupt_once
from tune_swa.text import first_line, format_bytes

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # paths mean what they mean to the driver
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # none of Ray's own lines, tables, warnings, log files and reports
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # the time that a used worker gets to leave its last trial
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",
    # signals are ours
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # every trial has a thread of its own, and glibc would give each a part of memory to keep for itself
    "MALLOC_ARENA_MAX": "1",
    # the last call to a worker that ends as it is interrupted may fail, and nobody waits for its result
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
    # a snapshot of Ray's is never read: the journal has everything
    "TUNE_GLOBAL_CHECKPOINT_S": "100000000",
}


LOST_SECONDS = 10
"""Ray's processes wait for its server for so long before they end, and the search with them; by default 60.
On one machine nothing brings it back."""


def set_environment(slots: int) -> None:
    """Set what Ray reads at import and at start; of what the user has set, what concerns Ray alone stays."""
    for name in [name for name in os.environ if concerns_tune(name)]:
        del os.environ[name]
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots)


def quiet_loggers() -> None:
    """Ray's loggers set themselves up at import, so this comes after it."""
    for name in (
        "ray.tune",
        "ray.tune.tune",
        "ray.tune.execution.tune_controller",
        "ray.train",
        "ray._private.authentication",
    ):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # messages of a worker's death are printed whatever log_to_driver says; the trial's own reason
    # is in the journal, and these go to the log for those who want them
    worker: Any = importlib.import_module("ray._private.worker")
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = _log_instead


def _log_instead(data: dict[str, Any], *_: object, **__: object) -> None:
    for line in data.get("lines", ()):
        logger.info("%s", line)


def _listen_everywhere(allowed: bool) -> None:
    """Whether Ray may choose an address that others can reach, and listen there.

    Where clusters are not allowed, a setting that Ray has for the firewalls of desktop systems, it
    takes 127.0.0.1 and all its servers listen there alone. An address given to `ray.init` does not do
    that: Ray turns a loopback address into the machine's own.
    """
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "1" if allowed else "0"  # for Ray's processes
    constants: Any = importlib.import_module("ray._private.ray_constants")
    constants.ENABLE_RAY_CLUSTER = allowed  # read at import, which was before


def _nothing_else() -> None:
    """What is done meanwhile by default."""


@contextmanager
def start_local_ray(
    placement: Placement, meanwhile: Callable[[], object] = _nothing_else, modules: Sequence[str] = ()
) -> Iterator[None]:
    """A Ray of our own on this machine, on the loopback interface alone, with a worker that has started.

    Args:
        placement: its cores and GPUs; as many workers are started as there are slots.
        meanwhile: called while they start. Whatever it raises ends Ray.
        modules: that the workers import meanwhile.

    Raises:
        SearchFailed: it cannot be started, or its workers cannot.
    """
    with local_ray_environment():
        set_environment(placement.slots)
        import ray

        quiet_loggers()
        _listen_everywhere(False)
        with (
            ray_setup.ignore_uv_run(),
            ray_setup.own_session_folder() as close_folder,
            ray_setup.adapt_ray(placement),
        ):
            try:
                environment = ray_setup.quote_worker_command()
                _init_ray(placement, environment, modules)
                close_folder()
                task = first_worker.request_worker() if environment else None
                meanwhile()
                first_worker.await_first_worker(task)
                close_folder()
                yield
            finally:
                ray.shutdown()
                _listen_everywhere(True)


def _init_ray(placement: Placement, environment: dict[str, str] | None, modules: Sequence[str]) -> None:
    import ray

    try:
        with patient_start(), ignore_in_children():
            ray.init(
                address="local",  # else Ray joins whatever cluster was started on this machine
                num_cpus=placement.cpus,
                num_gpus=placement.gpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
                runtime_env=environment,
                _system_config={
                    "gcs_rpc_server_reconnect_timeout_s": LOST_SECONDS,
                    "preload_python_modules": list(modules),
                },
            )
        interrupt_once()  # Ray has put its own handlers in their place, which end the process without a word
    except Exception as error:  # Ray raises a plain one where a process of its own does not start
        raise SearchFailed(
            f"Ray cannot be started on this machine ({first_line(error, 300)}). {_explain_failed_start()}"
        ) from error


def _explain_failed_start() -> str:
    """What Ray needs to start, the limits of this shell first if there are any."""
    limits = [
        f"{option} ({format_bytes(limit)})"
        for option, kind in (("ulimit -f", resource.RLIMIT_FSIZE), ("ulimit -v", resource.RLIMIT_AS))
        if (limit := resource.getrlimit(kind)[0]) != resource.RLIM_INFINITY
    ]
    if limits:
        return f"Its processes have to keep to {' and '.join(limits)} here: raise that to unlimited"
    return (
        "It needs room and write access in its folder for sessions, /tmp/ray or the one that RAY_TMPDIR names"
    )


@contextmanager
def join_cluster(address: str) -> Iterator[Machine]:
    """A connection to a running cluster; yields what it has.

    Raises:
        RequestError: there is no cluster at `address`. Call `check_reachable` first.
    """
    with kept_variables():
        set_environment(1)

        quiet_loggers()
        _listen_everywhere(True)
        with ray_setup.ignore_uv_run():
            yield from _join(address)


def _join(address: str) -> Iterator[Machine]:
    import ray

    found = None
    try:
        with _without_stderr():  # Ray writes a line for each of twenty attempts
            found = _resolve_address(address)
            _show_token_where_asked(found)
            ray.init(address=found, log_to_driver=False, logging_level=logging.ERROR)
        interrupt_once()  # as above
    except Exception as error:  # Ray raises plain ones, too
        raise (_access_refused if found else _cluster_missing)(address, error) from None
    try:
        yield Machine.of_nodes(tuple(_list_nodes()), where=f"the cluster at {address}")
    finally:
        ray.shutdown()


def _resolve_address(address: str) -> str:
    services: Any = importlib.import_module("ray._private.services")
    found: str = services.canonicalize_bootstrap_address(address)
    return found


def _show_token_where_asked(address: str) -> None:
    """Turn Ray's tokens on for this process if the cluster at `address` asks for one.

    Ray turns them on wherever there is a token file, and every local session leaves one behind. A
    driver with tokens then refuses to speak with a cluster that has none: it gets in, and every worker
    it starts dies.

    Raises:
        AuthenticationError: the cluster wants a token and there is none, or another one.
    """
    import ray

    if "RAY_AUTH_MODE" in os.environ:
        return
    raylet: Any = importlib.import_module("ray._raylet")
    tokens: Any = importlib.import_module("ray._private.authentication.authentication_token_setup")
    try:
        raylet.GcsClient(address=address)
    except ray.exceptions.AuthenticationError:
        if not tokens.maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise
        raylet.GcsClient(address=address)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Swallow what is written to stderr, below Python, where Ray's core writes."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _list_nodes() -> Iterator[Node]:
    import ray

    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            yield Node(
                name=node["NodeManagerHostname"],
                gpus=int(has.get("GPU", 0)),
                cpus=int(has.get("CPU", 0)),
                ray_id=node["NodeID"],
            )


def count_nodes() -> int:
    """Computers that Ray has now."""
    return sum(1 for _ in _list_nodes())


@contextmanager
def open_machine(address: str | None, gpus: int | None = None) -> Iterator[Machine]:
    """Describe the machine a search on this many GPUs would use, or the cluster at `address`."""
    if address is None:
        yield inspect_machine(gpus)
        return
    check_reachable(address)
    with join_cluster(address) as machine:
        yield machine


def inspect_machine(gpus: int | None) -> Machine:
    """This machine, whose GPUs are looked at unless none is asked for."""
    return Machine.without_gpus() if gpus == 0 else Machine.local()


def check_reachable(address: str) -> None:
    """Refuse an address at which nobody listens: Ray would wait there for minutes, in silence.

    Raises:
        RequestError: naming the address and what to do.
    """
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or "/" in host:
        raise RequestError(
            f"--address {address}: expected HOST:PORT as `ray start --head` prints it, or auto. Start the "
            "search on one of the cluster's machines"
        )
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise _cluster_missing(address, error) from None


def _access_refused(address: str, error: BaseException) -> RequestError:
    return RequestError(
        f"--address {address}: something listens there, but no Ray cluster lets this machine in "
        f"({first_line(error, 200)}). Give the address that `ray start --head` printed; a cluster with a "
        "token wants the same file ~/.ray/auth_token on all machines, and the same version of Ray"
    )


def _cluster_missing(address: str, error: BaseException) -> RequestError:
    return RequestError(
        f"--address {address}: no Ray cluster answers there ({first_line(error, 200)}). Start one with "
        "`ray start --head` and give its address, or leave --address out"
    )
