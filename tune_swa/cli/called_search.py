"""Run a search for a Python program that called one: this is the process that it starts."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tune_swa import plugins
from tune_swa.cli import supervisor
from tune_swa.cli.missing_packages import explain_import_error
from tune_swa.cli.parser import expand_paths
from tune_swa.cli.plugin_options import check_recorded_plugins
from tune_swa.cli.process_setup import prepare_process
from tune_swa.cli.search import require_current_folder, rescale_as_asked, run_experiment
from tune_swa.errors import Interrupted, RequestError, SearchFailed, TuneSwaError
from tune_swa.files import give_user_a_home


def run_called_search(call: dict[str, Any]) -> None:
    """Run the search, and write to the pipe that the caller reads, as JSON: where its journal is, and the
    outcome. Does not return.

    Args:
        call: `spec` (the experiment), `options` (those of the command line), `parent` (the caller's process
            ID) and `answer` (the descriptor of the pipe).
    """
    os.set_inheritable(call["answer"], False)
    supervisor.die_with_parent(call["parent"])
    prepare_process()
    outcome = _try_search(call)
    _answer(call, outcome)
    with suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(outcome.get("code", 0))  # without unloading torch and Ray, which takes seconds


def _answer(call: dict[str, Any], content: dict[str, Any]) -> None:
    """Write a line to the caller, who may have gone."""
    with suppress(OSError), open(call["answer"], "wb", closefd=False) as pipe:
        pipe.write(json.dumps(content).encode() + b"\n")


def _try_search(call: dict[str, Any]) -> dict[str, Any]:
    """Run the search; returns its folder, or exit code and message of what is wrong."""
    try:
        from tune_swa.config import Experiment

        require_current_folder()
        options = argparse.Namespace(**call["options"], supervised=False, dry_run=False, words=[])
        plugins.announce_plugins(options.plugin)
        experiment = rescale_as_asked(options, Experiment.model_validate(call["spec"]))
        give_user_a_home()
        expand_paths(options)
        folder = (Path(options.results_dir) / experiment.name).absolute()
        _answer(call, {"journal": str(folder / "journal.jsonl")})
        if options.resume:
            check_recorded_plugins(folder, options.plugin)
        run_experiment(options, experiment)
        return {"folder": str(folder)}
    except TuneSwaError as error:
        return {"code": error.exit_code, "error": str(error)}
    except (KeyboardInterrupt, SystemExit):
        return {"code": Interrupted.exit_code, "error": "interrupted"}
    except ImportError as error:
        return {"code": RequestError.exit_code, "error": explain_import_error(error)}
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return {"code": SearchFailed.exit_code, "error": f"{what}. Where it was raised is on stderr"}
