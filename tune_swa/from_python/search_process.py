"""The process in which a search that was called from Python runs: starts it, follows it, and stops it."""

from __future__ import annotations

import codecs
import json
import os
import selectors
import signal
import site
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from tune_swa.cli.messages import describe_death
from tune_swa.cli.supervisor import PATIENCE_SECONDS
from tune_swa.errors import Interrupted, RequestError, SearchFailed, TuneSwaError
from tune_swa.from_python.displays import Display

POLL_SECONDS = 0.1
PACKAGES = Path(__file__).parents[2]
"""Folder that this package is imported from."""
PIPE_BYTES = 1 << 16
"""Bytes that a pipe holds."""
CODE = """
import json, sys
call = json.load(sys.stdin)
sys.path[:] = call["path"]
from tune_swa.cli.called_search import run_called_search
run_called_search(call)
"""
"""Code that the process runs, with the same packages as here."""


class SearchProcess:
    """A search in a process of its own, in a process group that it shares with Ray.

    A Ctrl-C, or the stop button of a notebook, reaches the caller alone. If the caller's thread ends, so do
    the process and Ray.

    Args:
        spec: the experiment, as JSON can hold it.
        options: those of the command line.
        display: shows what the process prints.
    """

    def __init__(self, spec: dict[str, Any], options: dict[str, Any], display: Display) -> None:
        path = [folder for folder in sys.path if isinstance(folder, str)]  # Python passes over others, too
        self._call = {"spec": spec, "options": options, "path": path, "parent": os.getpid()}
        self._display = display
        self._shows_errors = True
        self._process: subprocess.Popen[bytes] | None = None
        self._selector = selectors.DefaultSelector()
        self._answer = ""
        """Lines of JSON that the process has answered."""

    def run(self) -> Path:
        """Run the search to its end, and show its progress. Returns the experiment's folder.

        Raises:
            RequestError, SearchFailed, Interrupted: as the command line reports them.
            KeyboardInterrupt: and the search has stopped in order, or was killed if it did not.
        """
        reading, writing = os.pipe()
        try:
            try:
                process = self._process = self._start(writing)
            finally:
                os.close(writing)
            self._send_call(process, writing, reading)
            self._follow(process, float("inf"))
        except BaseException:
            self._stop()
            self._display.write_error(f"Interrupted. {_describe_rest(self._read_answer())}.\n")
            raise
        finally:
            os.close(reading)
            self._close()
        return self._find_outcome(process.returncode)

    def _start(self, writing: int) -> subprocess.Popen[bytes]:
        streams = subprocess.PIPE if self._display.reads_output else None
        return subprocess.Popen(
            [sys.executable, "-P", "-c", CODE],
            stdin=subprocess.PIPE,
            stdout=streams,
            stderr=streams,
            env={**_own_environment(), **self._display.environment},
            pass_fds=[writing],
            process_group=0,
        )

    def _send_call(self, process: subprocess.Popen[bytes], writing: int, reading: int) -> None:
        """Send the call, and listen to what the process writes; `writing` and `reading` are the pipe of its
        answer."""
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which is explained below
            process.stdin.write(json.dumps({**self._call, "answer": writing}).encode())
            process.stdin.close()
        decoder = codecs.getincrementaldecoder("utf-8")
        streams = (process.stdout, process.stderr, reading)
        takers = (self._show_output, self._show_error, self._take_answer)
        for stream, take in zip(streams, takers, strict=True):
            if stream is not None:
                os.set_blocking(stream if isinstance(stream, int) else stream.fileno(), False)
                self._selector.register(stream, selectors.EVENT_READ, (decoder(errors="replace"), take))

    def _follow(self, process: subprocess.Popen[bytes], seconds: float) -> None:
        """Show what the process writes until it has ended, or for so many seconds."""
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            if self._selector.get_map():
                self._read_streams(POLL_SECONDS)
            else:  # it has closed them all
                with suppress(subprocess.TimeoutExpired):
                    process.wait(POLL_SECONDS)
            self._display.refresh()
        while self._read_streams(0):
            pass

    def _read_streams(self, seconds: float) -> bool:
        """Show what has been written; returns whether there was any. Waits for it at most so long."""
        found = self._selector.select(seconds) if self._selector.get_map() else []
        for key, _ in found:
            decoder, take = key.data
            data = os.read(key.fd, PIPE_BYTES)
            take(decoder.decode(data, final=not data))
            if not data:
                self._selector.unregister(key.fileobj)
        return bool(found)

    def _show_output(self, text: str) -> None:
        self._display.write_output(text)

    def _show_error(self, text: str) -> None:
        if self._shows_errors:
            self._display.write_error(text)

    def _take_answer(self, text: str) -> None:
        self._answer += text

    def _stop(self) -> None:
        """Ask the process to stop; kill it, and Ray with it, if it does not, or on another Ctrl-C."""
        process = self._process
        if process is None:
            return
        self._shows_errors = False  # what an interrupted import has to say is of no use
        try:
            process.send_signal(signal.SIGINT)
            self._follow(process, PATIENCE_SECONDS)
        except KeyboardInterrupt:  # the caller raises the first one
            pass
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _read_answer(self) -> dict[str, Any]:
        """Read what the process has answered, each part a line of JSON."""
        found: dict[str, Any] = {}
        with suppress(ValueError):  # a kill came while it was written
            for line in self._answer.splitlines():
                found.update(json.loads(line))
        return found

    def _close(self) -> None:
        self._display.refresh(final=True)
        self._selector.close()
        for stream in (self._process.stdout, self._process.stderr) if self._process else ():
            if stream is not None:
                stream.close()

    def _find_outcome(self, returncode: int) -> Path:
        answer = self._read_answer()
        if "folder" in answer:
            return Path(answer["folder"])
        if "code" not in answer:
            raise SearchFailed(f"{describe_death(returncode)} {_describe_rest(answer)}")
        if answer["code"] == Interrupted.exit_code:
            raise Interrupted(f"the search was stopped from outside. {_describe_rest(answer)}")
        raise _make_error(answer["code"], answer["error"])


def _describe_rest(answer: dict[str, Any]) -> str:
    """How to go on, without the full stop."""
    if Path(answer.get("journal", "/nowhere")).exists():
        return "What was done is kept. Call it again with resume=True to go on"
    return "Nothing had begun. Call it again"


def _make_error(code: int, message: str) -> TuneSwaError:
    return RequestError(message) if code == RequestError.exit_code else SearchFailed(message)


def _own_environment() -> dict[str, str]:
    """This process's environment, with which Ray's workers find this package wherever it is."""
    if str(PACKAGES) in [*site.getsitepackages(), site.getusersitepackages()]:
        return dict(os.environ)
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(PACKAGES)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
