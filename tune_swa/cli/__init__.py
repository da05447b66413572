"""The commands. torch and ray are imported only by those that need them.

`parser` lists the commands and their options; each is implemented in a module of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tune_swa.cli import supervisor
from tune_swa.cli.messages import how_to_go_on
from tune_swa.cli.parser import build_parser
from tune_swa.errors import Interrupted, TuneSwaError
from tune_swa.text import indent_message


def main(arguments: Sequence[str] | None = None, program: str = "tune-swa") -> int:
    """Run a command and return its exit code: 0 done, 1 no result, 2 wrong request, 130 interrupted.

    Args:
        arguments: default: those of the process, which then runs its search under a supervisor.
        program: what the command line calls itself.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _run(given, program, supervised=arguments is None)


def _run(given: list[str], program: str, *, supervised: bool) -> int:
    code = _run_command(given, program, supervised=supervised)
    supervisor.exit_fast(code)
    return code


def _run_command(given: list[str], program: str, *, supervised: bool) -> int:
    options = build_parser(program).parse_args(given)
    command: Callable[[argparse.Namespace], int] = options.command
    options.given = given
    options.program = program
    options.supervised = supervised
    try:
        return command(options)
    except Interrupted:
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except TuneSwaError as error:
        print(f"error: {indent_message(str(error))}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit):  # before a trial was started; Ray's own handler exits
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    finally:
        supervisor.report_clean_exit()


def run_search(arguments: Sequence[str] | None = None) -> int:
    """What `run_search.py` runs: `tune-swa search` under its own name."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return _run(["search", *given], "run_search.py", supervised=arguments is None)
