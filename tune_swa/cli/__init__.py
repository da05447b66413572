"""The commands. torch and ray are imported only by those that need them.

`parser` lists the commands and their options; each is implemented in a module of its own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from tune_swa.cli import supervisor
from tune_swa.cli.command_words import FROM_PYTHON, find_program_words
from tune_swa.cli.messages import how_to_go_on
from tune_swa.cli.missing_packages import explain_import_error
from tune_swa.cli.parser import build_parser, expand_paths
from tune_swa.cli.process_setup import OUTPUT_ERRORS, discard_output, prepare_process
from tune_swa.errors import Interrupted, RequestError, TuneSwaError
from tune_swa.files import give_user_a_home
from tune_swa.text import indent_message


def main(arguments: Sequence[str] | None = None, program: str = "tune-swa") -> int:
    """Run a command and return its exit code: 0 done, 1 no result, 2 wrong request, 130 interrupted.

    Args:
        arguments: default: those of the process, which then runs its search under a supervisor.
        program: what the command line calls itself.
    """
    return _run([], arguments, program)


def _run(before: list[str], arguments: Sequence[str] | None, program: str) -> int:
    """Run a command; `before` are the arguments that the program stands for."""
    supervised = arguments is None
    if supervised:
        prepare_process()
    given = list(sys.argv[1:] if arguments is None else arguments)
    program_words = find_program_words() if supervised else [*FROM_PYTHON, *before]
    options = build_parser(program).parse_args([*before, *given])
    options.words = [*program_words, *given]
    options.supervised = supervised
    code = _run_command(options)
    supervisor.exit_fast(code)
    return code


def _run_command(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        give_user_a_home()
        expand_paths(options)
        code = command(options)
        sys.stdout.flush()  # what fails here has a message; at the end of the process it would not
        return code
    except Interrupted:
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except TuneSwaError as error:
        print(f"error: {indent_message(str(error))}", file=sys.stderr)
        return error.exit_code
    except (KeyboardInterrupt, SystemExit):  # before a trial was started; Ray's own handler exits
        print(f"Interrupted. {how_to_go_on(options)}", file=sys.stderr)
        return Interrupted.exit_code
    except ImportError as error:
        print(f"error: {explain_import_error(error)}", file=sys.stderr)
        return RequestError.exit_code
    except BrokenPipeError:  # the reader of our output has gone (`| head`)
        sys.stderr.close()
        return 1
    except OSError as error:
        if error.errno not in OUTPUT_ERRORS or error.filename is not None:
            raise
        print(
            f"error: the output cannot be written ({error.strerror}). Files are not affected", file=sys.stderr
        )
        discard_output()
        return 1
    finally:
        supervisor.report_clean_exit()


def run_search(arguments: Sequence[str] | None = None) -> int:
    """Run `tune-swa search` under the name `run_search.py`."""
    return _run(["search"], arguments, "run_search.py")
