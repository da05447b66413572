"""Files with thousands of mistakes: the first ones are described, and the schema is built once for all."""

from __future__ import annotations

import pytest

from tune_swa.config import problem_lines
from tune_swa.config.yaml_file import parse_experiment
from tune_swa.errors import RequestError

SPACE = "name: x\nspace: {lr: 1e-3, swa_start: 0, swa_lr: 1e-3}\n"


def refuse(text: str) -> list[str]:
    with pytest.raises(RequestError) as raised:
        parse_experiment(text, "f.yaml")
    return str(raised.value).splitlines()


@pytest.mark.parametrize(
    ("text", "last"),
    [
        (SPACE + "".join(f"key{i}: 1\n" for i in range(2000)), "f.yaml: and 1,980 more like these"),
        (
            f"{SPACE}scheduler: {{trunk_rungs: [{', '.join('x' * 5000)}]}}\n",
            "f.yaml: and 4,981 more like these",
        ),
    ],
)
def test_the_first_of_thousands_are_described(text: str, last: str) -> None:
    problem_lines._read_schema.cache_clear()
    lines = refuse(text)
    assert len(lines) == problem_lines.MOST_LINES + 1
    assert lines[0].startswith("f.yaml:3: ")
    assert lines[-1] == last
    assert problem_lines._read_schema.cache_info().misses <= 1


def test_up_to_the_limit_all_are() -> None:
    lines = refuse(SPACE + "".join(f"key{i}: 1\n" for i in range(problem_lines.MOST_LINES)))
    assert [line.split(":")[2] for line in lines] == [f" key{i}" for i in range(problem_lines.MOST_LINES)]


def test_a_key_with_line_breaks_is_one_line() -> None:
    [line] = refuse(SPACE + '"a\\nerror: \\e[31mb": 1\n')
    assert line.startswith("f.yaml:3: a\\nerror: \\x1b[31mb: unknown key")


@pytest.mark.parametrize("key", ["data.path", "data.dataset", "model.weights"])
def test_a_path_with_a_nul_is_refused(key: str) -> None:
    section, field = key.split(".")
    [line] = refuse(f'{SPACE}{section}: {{{field}: "a\\0b"}}\n')
    assert line == f"f.yaml:3: {key}: 'a\\x00b': no name of a file has a NUL character in it"
