"""Run all checks in their order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tune_swa.child_process import Child
from tune_swa.doctor import contents, folders, machine, packages, ray_check, torch_check
from tune_swa.doctor.findings import SECONDS, Finding, run_check
from tune_swa.hardware.gpu_survey import SURVEY_SECONDS, Surveyor


def run_checks(
    results_dir: Path,
    data_dir: Path | None = None,
    storage: str | None = None,
    address: str | None = None,
    *,
    ray: bool = False,
) -> Iterator[Finding]:
    """Check everything, as the command line's options say; yield the findings as they come."""
    # torch is the slowest, so it starts first
    with Child("tune_swa.hardware.torch_probe:probe_torch") as torch, Surveyor() as surveyor:
        yield from run_check("packages", packages.check_packages)
        yield from run_check("CPU", machine.check_cores)
        yield from run_check("memory", machine.check_memory)
        yield from run_check("shared memory", machine.check_shared_memory)
        yield from run_check("results", lambda: folders.check_results_folder(results_dir))
        yield from run_check("image cache", folders.check_cache_folder)
        yield from run_check("image cache", contents.check_cached_images)
        yield from run_check("temporary", folders.check_ray_folder)
        if data_dir is not None:
            yield from run_check("images", lambda: contents.check_image_folder(data_dir))
        if storage is not None:
            yield from run_check(
                "storage",
                lambda: folders.check_storage(storage),
                "See that the place and your credentials are right",
                folders.STORAGE_SECONDS + SECONDS,
            )
        yield from run_check(
            "torch",
            lambda: torch_check.check_torch(torch, surveyor),
            "Install torch for this kind of machine again",
            torch_check.TORCH_SECONDS + SURVEY_SECONDS,
        )
    yield from run_check("Ray", ray_check.check_processes)
    seconds = ray_check.START_SECONDS + SECONDS
    if ray:
        logs = "See the newest logs in ray/session_latest/logs below RAY_TMPDIR, TMPDIR or /tmp"
        yield from run_check("Ray", ray_check.check_start, logs, seconds)
    if address is not None:
        guide = "docs/cluster.md explains how to start a cluster and join it"
        yield from run_check("cluster", lambda: ray_check.check_cluster(address), guide, seconds)
