"""What is shown of the output of a program with a live region."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.live import Live
from rich.text import Text

from tune_swa.from_python.displays import choose_display, render_html
from tune_swa.from_python.screen import KEPT_LINES, Screen


def write_session(lines: int = 3) -> tuple[str, list[str]]:
    """What rich writes for lines above a live region that grows, shrinks and goes; and what is left."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=60, height=20, color_system="standard", legacy_windows=False
    )
    with Live(console=console, auto_refresh=False, transient=True) as live:
        for number in range(lines):
            region = "\n".join(f"row {row} of {number}" for row in range(4 - number % 3))
            live.update(Text(region, style="green"), refresh=True)
            console.print(Text(f"line {number}", style="bold"))
        during = file.getvalue()
    assert "\x1b[1A" in during
    return during, [*(f"line {number}" for number in range(lines)), *region.splitlines()]


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_a_live_region_is_drawn_over_however_the_output_is_cut(size: int) -> None:
    text, expected = write_session()
    screen = Screen()
    for start in range(0, len(text), size):
        screen.write(text[start : start + size])
    assert screen.plain_lines == expected
    assert "\x1b[1mline 0\x1b[0m" in screen.lines


def test_of_a_long_output_the_last_lines_are_kept() -> None:
    text, expected = write_session(500)
    screen = Screen()
    screen.write(text)
    shown = screen.plain_lines
    hidden = len(expected) - (len(shown) - 1)
    assert shown == [f"... {hidden} earlier lines", *expected[-(len(shown) - 1) :]]
    assert len(shown) == KEPT_LINES + 1


def test_a_line_that_begins_again_replaces_what_it_was() -> None:
    screen = Screen()
    screen.write("loading 1 %\rloading 100 %\r\ndone\n\x1b[?25h\x1b")
    screen.write("[31mred\x1b[0m")
    assert screen.plain_lines == ["loading 100 %", "done", "red"]


def test_html_shows_names_as_they_are() -> None:
    html = render_html(["\x1b[1m<b>a & b</b>\x1b[0m", "x" * 300])
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in html
    assert html.count("\n") == 2  # nothing is folded
    assert re.fullmatch(r"<pre style=[^>]*>.*</pre>", html, re.DOTALL)


def test_a_stdout_that_is_an_object_gets_the_output(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for quiet, expected in ((False, "hello"), (True, "")):
        display = choose_display(quiet=quiet)
        assert display.reads_output
        display.write_output("hello")
        display.refresh(final=True)
        assert capsys.readouterr().out == expected
