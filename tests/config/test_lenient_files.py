"""What space files may leave to the reader: shared values, shorter runs, null among numbers, no GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from helpers.journals import Writer
from tune_swa.config import Experiment, yaml_file
from tune_swa.errors import RequestError
from tune_swa.execution.request import Request
from tune_swa.results.report.page import write_report
from tune_swa.results.tables import build_tables

ROOT = Path(__file__).parent.parent.parent
SPACE = "space: {lr: 1e-3, swa_start: {choice: [5, 10]}, swa_lr: 1e-3}\n"


def parse(text: str, *overrides: str) -> Experiment:
    return yaml_file.parse_experiment("name: x\n" + text, "f.yaml", list(overrides))


# --------------------------------------------------------------------------- anchors and merge keys


@pytest.mark.parametrize(
    "text",
    [
        SPACE + "x-train: &t {batch_size: 32, momentum: 0.8}\ntrain: {<<: *t, momentum: 0.5}",
        SPACE + "x-train: &t {batch_size: 32, momentum: 0.8}\ntrain:\n  momentum: 0.5\n  <<: *t",
        SPACE + "defaults: &t {batch_size: 32}\ntrain: {<<: [*t], momentum: 0.5}",
        SPACE + "common:\n  small: &t {batch_size: 32}\n  slow: &s {momentum: 0.5}\ntrain: {<<: [*t, *s]}",
        SPACE + "base: &b {batch_size: 32}\nmore: &m {<<: *b, momentum: 0.5}\ntrain: *m",
        SPACE + "size: &size 32\ntrain: {batch_size: *size, momentum: 0.5}",
        SPACE + "one: &a {batch_size: 32}\ntwo: &b {batch_size: 8, momentum: 0.5}\ntrain: {<<: [*a, *b]}",
        SPACE + "x-note: nobody uses this\ntrain: {batch_size: 32, momentum: 0.5}",
    ],
)
def test_values_are_shared_by_anchors(text: str) -> None:
    train = parse(text).train
    assert (train.batch_size, train.momentum) == (32, 0.5)


def test_a_merged_space_keeps_its_order_and_places() -> None:
    shared = "rates: &r {lr: {choice: [1e-3, 1e-2]}, swa_lr: 1e-3}\n"
    assert list(parse(shared + "space: {<<: *r, swa_start: 5}").space) == ["lr", "swa_lr", "swa_start"]
    with pytest.raises(RequestError, match=r"^f\.yaml:2: space\.lr\.choice\.0: -1: expected a number"):
        parse(shared.replace("[1e-3,", "[-1,") + "space: {<<: *r, swa_start: 5}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("trian: &t {epochs: 30}\nx-more: *t", r"f\.yaml:3: trian: unknown key\. Did you mean train\?"),
        ("defaults: {epochs: 30}", r"defaults: unknown key"),
        ("train: {<<: 3}", r"f\.yaml:3: << takes settings, such as <<: \*name"),
        ("x-a: &a {<<: *a}\ntrain: *a", r"f\.yaml:3: .*(alias repeats itself|not readable)"),
        ("x-a: &a {epochs: 30, epochs: 20}\ntrain: *a", "epochs is listed twice; keep one"),
        ("train: {'<<': {epochs: 30}}", r"train\.<<: unknown key"),
        ("".join(f"x{i}: &x{i} {{<<: [{', '.join([f'*x{i - 1}'] * 9)}]}}\n" if i else "x0: &x0 {a: 1}\n"
                 for i in range(9)) + "train: *x8", "more than 100,000 values"),
    ],
)  # fmt: skip
def test_mistakes_with_anchors_are_told(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(SPACE + text)


# -------------------------------------------------------------------------------- shorter runs


@pytest.mark.parametrize("name", ["swa_grid", "swa_tpe"])
@pytest.mark.parametrize("override", ["train.epochs=6", "train={epochs: 6, batch_size: 8}"])
def test_a_shipped_file_can_be_shortened(name: str, override: str) -> None:
    rest = ["train.warmup_epochs=1", "space.swa_start={choice: [2, 3]}", "points=[]"]
    spec = yaml_file.load_experiment(ROOT / "search_spaces" / f"{name}.yaml", [override, *rest])
    assert (spec.train.epochs, spec.scheduler.grace_epochs) == (6, 6)


def test_a_grace_period_that_is_too_long_by_itself_is_refused() -> None:
    for overrides in ((), ("train.epochs=15", "scheduler.grace_epochs=40")):
        with pytest.raises(RequestError, match="expected at most train.epochs"):
            parse(SPACE + "train: {epochs: 20}\nscheduler: {grace_epochs: 30}", *overrides)


@pytest.mark.parametrize(
    ("epochs", "value", "message"),
    [
        (
            4,
            0.85,
            r"0\.85: is epoch 3 of 4; expected a whole number from 0 to 2, or a fraction of .* below 0\.75",
        ),
        (20, 0.99, r"0\.99: is epoch 19 of 20; .* below 0\.95 \(train\.epochs is 20, and at least one"),
        (4, 3, r"3: expected a whole number from 0 to 2, or a fraction of train\.epochs below 0\.75"),
        (
            4,
            "half",
            r"'half': expected a whole number from 0 to 2, or a fraction of train\.epochs below 0\.75",
        ),
    ],
)
def test_fractions_are_explained_alike(epochs: int, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        parse(f"train: {{epochs: {epochs}}}\nspace: {{lr: 1e-3, swa_start: {value}, swa_lr: 1e-3}}")


@pytest.mark.parametrize("epochs", [2, 3, 4, 7, 20, 120, 1000])
def test_a_fraction_below_the_one_that_is_named_is_allowed(epochs: int) -> None:
    with pytest.raises(RequestError) as caught:
        parse(f"train: {{epochs: {epochs}}}\nspace: {{lr: 1e-3, swa_start: 0.9999, swa_lr: 1e-3}}")
    below = float(str(caught.value).partition("train.epochs below ")[2].split()[0])
    spec = parse(f"train: {{epochs: {epochs}}}\nspace: {{lr: 1e-3, swa_start: {below - 1e-4}, swa_lr: 1e-3}}")
    assert spec.constants["swa_start"] == epochs - 2


# ------------------------------------------------------------------------- null among the values


@pytest.mark.parametrize(
    ("name", "values", "kind", "column"),
    [
        ("train.t_max", "[null, 5]", "int", pa.int64()),
        ("averaging.bn_batches", "[2, null, 4]", "int", pa.int64()),
    ],
)
def test_null_among_numbers_leaves_a_column_of_numbers(
    name: str, values: str, kind: str, column: pa.DataType, tmp_path: Path
) -> None:
    spec = parse(f"space: {{lr: 1e-3, swa_start: 5, swa_lr: 1e-3, {name}: {{choice: {values}}}}}")
    assert [p.value_type for p in spec.parameters] == [kind]
    writer = Writer(tmp_path, spec)
    for index, value in enumerate(spec.parameters[0].domain.list_values() or ()):
        writer.trial(f"swa-{index}", {name: value}, [0.5 + index / 10] * spec.train.epochs)
    state = writer.state()
    table = build_tables(state).trials
    assert table.schema.field(name).type == column
    assert table[name].to_pylist() == list(spec.parameters[0].domain.list_values() or ())
    assert write_report(state, tmp_path).read_text().count(name) > 0


# --------------------------------------------------------------------------------------- no GPU


def test_no_part_of_a_gpu_is_the_cpu() -> None:
    for written in ("0", "0.0"):
        spec = parse(SPACE + f"resources: {{gpus_per_trial: {written}}}")
        assert Request(experiment=spec).gpus == 0
        assert Request(experiment=spec, gpus=0).gpus == 0
        with pytest.raises(
            RequestError, match=r"--gpus 2: resources\.gpus_per_trial is 0, .* Leave --gpus out"
        ):
            Request(experiment=spec, gpus=2)
    assert Request(experiment=parse(SPACE), gpus=2).gpus == 2
    with pytest.raises(RequestError, match=r"gpus_per_trial: 0\.0001: expected 'auto', 0 \(the CPU\) or"):
        parse(SPACE + "resources: {gpus_per_trial: 1e-4}")
