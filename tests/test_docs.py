"""What the documentation shows: programs with their output, plans, space files and links."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import itertools
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

import tune_swa
from helpers.drawn_images import draw_tree
from tune_swa.cli.parser import build_parser
from tune_swa.config import ArithmeticSpec, ConfirmSpec, ObjectiveSpec, sections, yaml_file
from tune_swa.config.augmentation import AUGMENTATIONS
from tune_swa.config.confirm_sections import RaceSpec
from tune_swa.execution.dry_run import make_plan
from tune_swa.execution.plan_table import print_plan
from tune_swa.execution.slots import Machine

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\S*)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLANS = [
    (page, match[2], match[3])
    for page in PAGES
    for match in BLOCK.finditer(page.read_text())
    if match[1] == "plan"
]


def programs(page: Path) -> list[tuple[str, str]]:
    """Blocks of Python that an output follows, with that output."""
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    return [
        (program[3], output[3])
        for program, output in itertools.pairwise(blocks)
        if program[1] == "python" and output[1] == "text" and not text[program.end() : output.start()].strip()
    ]


@pytest.mark.parametrize("page", [p for p in PAGES if programs(p)], ids=lambda p: p.name)
def test_programs_print_what_stands_below_them(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after the other, as in a notebook, from the repository's root."""
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    for program, output in programs(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(program, str(page), "exec"), names)
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == output.splitlines()


@pytest.mark.parametrize(("page", "name", "shown"), PLANS, ids=[name for _, name, _ in PLANS])
def test_plans_are_those_of_a_dry_run(page: Path, name: str, shown: str, tmp_path: Path) -> None:
    spaces = [match[3] for match in BLOCK.finditer(page.read_text()) if match[1] == "yaml"]
    own = next((text for text in spaces if yaml.safe_load(text).get("name") == name), None)
    file = ROOT / "search_spaces" / f"{name}.yaml"
    images = None
    machine = Machine(gpus=4, cpus=16)
    if own is not None:
        file = tmp_path / "space.yaml"
        file.write_text(own)
        images = tmp_path / "photos"
        draw_tree(images, {"train": 160, "test": 50}, ("a", "b", "c", "d", "e"))
        machine = Machine(gpus=0, cpus=2)
    printed = io.StringIO()
    # what a trial takes of a GPU can only be measured on one; the page's plans are for quarters
    experiment = yaml_file.load_experiment(file, ["resources.gpus_per_trial=0.25"] if machine.gpus else [])
    print_plan(Console(file=printed, width=100), make_plan(experiment, images, machine=machine))
    lines = [line.rstrip() for line in printed.getvalue().splitlines()]
    start = lines.index(shown.splitlines()[0])
    assert shown.splitlines() == [line for line in lines[start:] if line in shown.splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_space_files_are_right(page: Path, tmp_path: Path) -> None:
    for match in BLOCK.finditer(page.read_text()):
        if match[1] == "yaml":
            (tmp_path / "space.yaml").write_text(match[3])
            yaml_file.load_experiment(tmp_path / "space.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path) if path else page
        assert other.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", other.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


SECTIONS = {
    "data": sections.DataSpec,
    "model": sections.ModelSpec,
    "train": sections.TrainSpec,
    "averaging": sections.AveragingSpec,
    "baseline": sections.BaselineSpec,
    "search": sections.SearchSpec,
    "objective": ObjectiveSpec,
    "scheduler": sections.SchedulerSpec,
    "resources": sections.ResourcesSpec,
    "confirm": ConfirmSpec,
}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_is_documented_with_its_default(section: str) -> None:
    text = (ROOT / "docs" / "space-file.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    tables = [dict(re.findall(r"^\| `(\w+)` \| (\S+|see below) \|", part, re.MULTILINE)) for part in
              re.split("`confirm.race`|`train.arithmetic`", text)]  # fmt: skip
    models: list[type[sections.Settings]] = [SECTIONS[section]]
    models += {"confirm": [RaceSpec], "train": [ArithmeticSpec]}.get(section, [])
    for table, model in zip(tables, models, strict=True):
        assert list(table) == list(model.model_fields)
        for name, field in model.model_fields.items():
            if not isinstance(field.default, sections.Settings):
                shown = json.loads(json.dumps(field.default))  # tuples as lists
                assert yaml_file.parse_document(table[name].strip("`"), name).value == shown, name


def test_every_augmentation_is_documented_with_its_settings() -> None:
    text = (ROOT / "docs" / "space-file.md").read_text().split("\n## Augmentations\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\|([^|]+)\|([^|]*)\|[^|]+\|$", text, re.MULTILINE)
    documented = {name: settings for names, settings in rows for name in re.findall(r"`(\w+)`", names)}
    assert list(documented) == list(AUGMENTATIONS)
    for name, model in AUGMENTATIONS.items():
        for field, info in model.model_fields.items():
            if field == "name":
                continue
            assert f"`{field}" in documented[name], (name, field)
            shown = re.search(rf"`{field}: (.*?)`", documented[name])
            if shown:
                given = yaml_file.parse_document(shown[1], name).value
                assert given == json.loads(json.dumps(info.default)), (name, field)


def test_every_option_of_a_search_is_documented() -> None:
    text = (
        (ROOT / "docs" / "command-line.md").read_text().split("\n## tune-swa search\n")[1].split("\n## ")[0]
    )
    documented = re.findall(r"^\| `(--[\w-]+)", text, re.MULTILINE)
    usage = io.StringIO()
    with contextlib.redirect_stdout(usage), pytest.raises(SystemExit):
        build_parser("tune-swa").parse_args(["search", "--help"])
    listed = re.findall(r"^  (--[\w-]+)", usage.getvalue(), re.MULTILINE)
    assert documented == listed


def test_shown_command_lines_are_understood() -> None:
    """Every command of this project in the documentation, as far as its parser goes."""
    shown = [
        (page, line.partition(" #")[0].removeprefix("$ ").replace("\\\n", " "))
        for page in PAGES
        for block in BLOCK.finditer(page.read_text())
        if block[1] in ("", "console")
        for line in block[3].replace("\\\n", " ").splitlines()
    ]
    commands = [(page, shlex.split(line)) for page, line in shown
                if line.startswith(("python run_search.py", "tune-swa "))]  # fmt: skip
    assert len(commands) > 10
    for page, words in commands:
        arguments = ["search", *words[2:]] if words[0] == "python" else words[1:]
        arguments = list(itertools.takewhile(lambda word: word != ">", arguments))
        try:
            build_parser("tune-swa").parse_args(arguments)
        except SystemExit:
            pytest.fail(f"{page.name}: {shlex.join(words)}")


def test_the_ways_through_the_package_exist() -> None:
    """Files and names in the tables of docs/development.md, modules in the package's docstring."""
    text = (ROOT / "docs" / "development.md").read_text()
    steps = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", text, re.MULTILINE)
    assert len(steps) > 15
    for file, name in steps:
        source = (ROOT / "tune_swa" / file).read_text()
        assert re.search(rf"^ *(def|class) {name}\b", source, re.MULTILINE), f"{file}: {name}"
    for file in re.findall(r"`([\w/]+/\w+\.py)`", text):
        assert (ROOT / "tune_swa" / file).exists() or (ROOT / file).exists(), file
    for module in re.findall(r"^\d\. `([\w.]+)`", tune_swa.__doc__ or "", re.MULTILINE):
        assert importlib.util.find_spec(f"tune_swa.{module}") is not None, module
