"""Lines of errors, sizes and shortened lists, as messages show them."""

from __future__ import annotations

import pytest

from tune_swa.text import (
    escape_controls,
    first_line,
    format_bytes,
    indent_message,
    name_first,
    quote_name,
)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError("\n one "), "one"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
        (OSError("no driver"), "no driver"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (FileNotFoundError(2, "No such file or directory", "a.pt"), "a.pt: No such file or directory"),
        (ValueError("x" * 900), "x" * 500),
    ],
)
def test_the_first_line_of_an_error(error: Exception, line: str) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (5, "5 bytes"),
        (2e9, "2 GB"),
        (90e6, "90 MB"),
        (67_108_864, "67.1 MB"),
        (25.3e9, "25.3 GB"),
        (412e9, "412 GB"),
        (1.2e12, "1.2 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_a_shortened_list() -> None:
    assert name_first(["a", "b"], 2) == "a, b"
    assert name_first(["a", "b", "c"], 2) == "a, b and 1 more"
    assert name_first(["a", "b"], 2, total=2000, separator="; ") == "a; b and 1,998 more"
    assert name_first([], 2) == ""


def test_what_a_terminal_would_obey_is_escaped() -> None:
    name = "a\x1b[31m\x00\x9b1m\r\u202eb\u2028\udcff"
    assert escape_controls(name) == "a\\x1b[31m\\x00\\x9b1m\\r\\u202eb\\u2028\\udcff"
    assert escape_controls("ä\u200dß\u3000\n\t") == "ä\u200dß\u3000\n\t"  # joiners are letters of names
    assert quote_name("a\nerror: b\tc") == "a\\nerror: b\\tc"
    assert indent_message("one\nerror: two\n  three") == "one\n  error: two\n  three"
