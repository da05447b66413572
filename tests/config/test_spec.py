"""Space files as values: domains, points, baselines, and what every mistake is answered with."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tune_swa.config import (
    Experiment,
    Range,
    TrainSpec,
    count_space,
    enumerate_space,
    format_label,
    format_value,
    params_key,
    yaml_file,
)
from tune_swa.errors import RequestError

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
SPACE = {"lr": 1e-3, "swa_start": {"choice": [5, 10]}, "swa_lr": {"log_uniform": [1e-4, 1e-2]}}


def experiment(**changes: object) -> Experiment:
    return Experiment.model_validate({"name": "x", "space": SPACE, **changes})


def values(spec: Experiment, name: str) -> tuple[object, ...] | None:
    return next(p.domain.list_values() for p in spec.parameters if p.name == name)


# ------------------------------------------------------------------------------------- domains


def test_every_kind_of_domain() -> None:
    spec = experiment(
        space={
            "lr": {"uniform": [0.1, 0.5], "step": 0.1},
            "swa_start": {"int": [5, 15], "step": 5},
            "swa_lr": {"log_uniform": [1e-4, 1e-2]},
            "train.weight_decay": {"choice": [0, "1e-4"]},
            "train.batch_size": {"int": [16, 64], "log": True},
            "averaging.anneal_epochs": {"constant": 3},
            "train.augment": {"choice": [[], ["hflip", "crop"]]},
        }
    )
    assert [p.name for p in spec.parameters] == [
        "lr", "swa_start", "swa_lr", "train.weight_decay", "train.batch_size", "train.augment",
    ]  # fmt: skip
    assert values(spec, "lr") == pytest.approx((0.1, 0.2, 0.3, 0.4, 0.5))
    assert values(spec, "swa_start") == (5, 10, 15)
    assert values(spec, "train.weight_decay") == (0.0, 1e-4)
    assert values(spec, "train.augment") == ((), ("hflip", "crop"))
    assert values(spec, "train.batch_size") == tuple(range(16, 65))
    assert spec.constants == {"averaging.anneal_epochs": 3}
    assert [p.value_type for p in spec.parameters] == ["float", "int", "float", "float", "int", "str"]
    assert [p.name for p in spec.parameters if p.swa] == ["swa_start", "swa_lr"]


@pytest.mark.parametrize(
    ("written", "epochs", "expected"),
    [
        ({"choice": [0.5, 0.75]}, 20, (10, 15)),
        ({"choice": [0.29]}, 100, 29),  # 0.29 * 100 is 28.999999999999996
        ({"choice": [0.3333]}, 10, 3),
        ({"int": [0.25, 0.75], "step": 5}, 20, (5, 10, 15)),
        (0.5, 20, 10),
        (0, 20, 0),
        (18, 20, 18),
    ],
)
def test_swa_start_below_one_is_a_fraction_rounded_down(
    written: object, epochs: int, expected: object
) -> None:
    spec = experiment(space={**SPACE, "swa_start": written}, train={"epochs": epochs})
    if isinstance(expected, int):
        assert spec.constants["swa_start"] == expected
    else:
        assert values(spec, "swa_start") == expected


@settings(max_examples=50, deadline=None)
@given(low=st.integers(0, 50), steps=st.integers(0, 20), step=st.integers(1, 7))
def test_bounds_of_stepped_ranges_are_included(low: int, steps: int, step: int) -> None:
    domain = Range(low, low + steps * step, step, log=False, integer=True)
    found = domain.list_values()
    assert found is not None
    assert (found[0], found[-1], len(found)) == (low, low + steps * step, steps + 1)
    assert all(v in domain for v in found)
    assert low - 1 not in domain
    assert low + steps * step + 1 not in domain


def test_a_point_keeps_the_sections_value_for_what_it_leaves_out() -> None:
    spec = experiment(
        space={**SPACE, "train.weight_decay": {"choice": [0, 1e-4]}},
        points=[{"swa_start": 5, "swa_lr": "5e-4"}],
    )
    assert spec.swa_points == ({"swa_start": 5, "swa_lr": 5e-4, "train.weight_decay": 1e-4},)


def test_run_settings_of_both_kinds() -> None:
    spec = experiment(
        space={**SPACE, "train.weight_decay": {"choice": [0, 0.1]}, "averaging.anneal_epochs": 2},
        search={"seed": 7},
    )
    swa = spec.run_settings("swa", {"swa_start": 5, "swa_lr": 5e-4, "train.weight_decay": 0.1})
    assert (swa.lr, swa.swa_start, swa.swa_lr, swa.fork_epoch, swa.seed) == (1e-3, 5, 5e-4, 6, 7)
    assert (swa.train.weight_decay, swa.averaging.anneal_epochs) == (0.1, 2)
    baseline = spec.run_settings("baseline", {"train.weight_decay": 0.0}, seed=3)
    assert (baseline.swa_start, baseline.swa_lr, baseline.fork_epoch, baseline.seed) == (None, None, None, 3)


# ------------------------------------------------------------------- how many trials of each kind


@pytest.mark.parametrize(
    ("changes", "baselines", "swa"),
    [
        ({}, 1, 24),
        ({"space": {**SPACE, "lr": {"choice": [1e-4, 1e-3]}}}, 2, 24),
        ({"space": {**SPACE, "lr": {"choice": [i / 1000 for i in range(1, 10)]}}}, 6, 24),
        ({"space": {**SPACE, "lr": {"uniform": [1e-4, 1e-3]}}, "search": {"trials": 10}}, 2, 10),
        ({"space": {**SPACE, "lr": {"uniform": [1e-4, 1e-3]}}, "baseline": {"trials": 5}}, 5, 24),
        ({"space": {**SPACE, "lr": {"choice": [1e-4, 1e-3]}}, "baseline": {"trials": 5}}, 2, 24),
        ({"baseline": {"points": [{}, {}]}}, 1, 24),
        ({"space": {"lr": {"choice": [1e-4, 1e-3]}, "swa_start": {"choice": [1, 2, 3]}, "swa_lr": 0.1},
          "search": {"sampler": "grid"}}, 2, 6),
        ({"space": {"lr": 1e-3, "swa_start": {"choice": [1, 2, 3]}, "swa_lr": 0.1},
          "search": {"sampler": "grid", "trials": 2}}, 1, 2),
        ({"space": {"lr": 1e-3, "swa_start": {"choice": [1, 2, 3]}, "swa_lr": 0.1},
          "search": {"trials": 20}}, 1, 3),  # there are no more
    ],
)  # fmt: skip
def test_numbers_of_trials(changes: dict[str, object], baselines: int, swa: int) -> None:
    spec = experiment(**changes)
    assert (spec.baseline_trials, spec.swa_trials) == (baselines, swa)


# ------------------------------------------------------------------------------ shipped space files


def test_the_shipped_files() -> None:
    assert [p.stem for p in SHIPPED] == ["digits", "family", "swa_grid", "swa_tpe", "swag", "tutorial_table"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_files_are_valid_and_their_schema_says_so(path: Path) -> None:
    spec = yaml_file.load_experiment(path)
    assert spec.name == path.stem
    document = yaml_file.parse_document(path.read_text(), str(path)).value
    jsonschema.validate(document, Experiment.model_json_schema(by_alias=True))


def test_swa_grid_is_the_tutorials_experiment() -> None:
    spec = yaml_file.load_experiment(ROOT / "search_spaces" / "swa_grid.yaml")
    assert (spec.train.epochs, spec.train.batch_size, spec.data.image_size) == (120, 256, 256)
    assert (spec.train.optimizer, spec.train.augment, spec.model.weights) == ("adam", ("hflip",), "imagenet")
    assert values(spec, "lr") == (5e-5, 1e-4, 2e-4)
    assert values(spec, "swa_start") == (60, 75, 90)
    assert values(spec, "swa_lr") == (0.05, 5e-4, 1e-4, 5e-5, 1e-5)
    assert (spec.swa_trials, spec.baseline_trials) == (45, 3)
    assert spec.scheduler.asha
    assert spec.resources.gpus_per_trial == "auto"


def test_tutorial_table_is_its_eight_rows() -> None:
    spec = yaml_file.load_experiment(ROOT / "search_spaces" / "tutorial_table.yaml")
    rows = [format_label({"swa_start": p["swa_start"], "swa_lr": p["swa_lr"]}) for p in spec.swa_points]
    assert rows == [
        "SWA_90_0.05", "SWA_90_5e-4", "SWA_90_1e-4", "SWA_90_5e-5", "SWA_90_1e-5", "SWA_75_5e-5", "SWA_60_5e-5",
    ]  # fmt: skip
    assert (spec.swa_trials, spec.baseline_trials, spec.scheduler.asha) == (7, 1, False)
    assert {spec.run_settings("swa", p).train.warmup_epochs for p in spec.swa_points} == {0}
    assert spec.baseline_points is not None
    assert spec.run_settings("baseline", spec.baseline_points[0]).train.warmup_epochs == 12
    assert (spec.train.unit, spec.train.t_max, spec.data.normalize) == ("batch", 120, "none")


def test_the_schema_describes_every_setting() -> None:
    schema = Experiment.model_json_schema(by_alias=True)
    undescribed = [
        f"{model}.{name}"
        for model, definition in schema["$defs"].items()
        for name, field in definition.get("properties", {}).items()
        if "description" not in field and "$ref" not in field
        and model not in ("ConstantDomain",)
    ]  # fmt: skip
    assert undescribed == []


@pytest.mark.parametrize(
    ("document", "valid"),
    [
        ({"name": "x", "space": SPACE}, True),
        ({"name": "x", "space": SPACE, "trian": {}}, False),
        ({"name": "x", "space": {**SPACE, "lr": {"choise": [1]}}}, False),
        ({"name": "x", "space": SPACE, "search": {"sampler": "best"}}, False),
        ({"name": "x", "space": SPACE, "data": {"duplicates": "group"}}, True),
        ({"name": "x", "space": SPACE, "data": {"duplicates": "drop"}}, False),
        ({"name": "x", "space": SPACE, "model": {"arch": "convnext_tiny"}}, True),
        ({"name": "x", "space": SPACE, "model": {"arch": "timm/resnet18.a1_in1k"}}, True),
        ({"name": "x", "space": SPACE, "model": {"arch": "convnext_teeny"}}, False),
        ({"name": "x", "space": SPACE, "model": {"arch": "timm/hf-hub:a/b"}}, False),
        ({"name": "x", "space": SPACE, "data": {"normalize": {"mean": [0.5] * 3, "std": [0.5] * 3}}}, True),
        (
            {"name": "x", "space": SPACE, "data": {"normalize": {"mean": [0.5] * 3, "std": [0.5, 0, 1]}}},
            False,
        ),
    ],
)
def test_the_schema_agrees_with_the_models(document: dict[str, object], valid: bool) -> None:
    schema = Experiment.model_json_schema(by_alias=True)
    assert jsonschema.Draft202012Validator(schema).is_valid(document) == valid
    if valid:
        Experiment.model_validate(document)
    else:
        with pytest.raises(ValidationError):
            Experiment.model_validate(document)


# ----------------------------------------------------------------------------------------- mistakes

GOOD = """\
name: x
train: {epochs: 20}
space:
  lr: 1e-3
  swa_start: {choice: [5, 10]}
  swa_lr: {log_uniform: [1e-4, 1e-2]}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs: 20", "epoch: 20", r"f\.yaml:2: train\.epoch: unknown key\. Did you mean epochs\?"),
        ("epochs: 20", "epochs: many", r"f\.yaml:2: train\.epochs: 'many': expected a whole number"),
        ("epochs: 20", "epochs: 1", r"f\.yaml:2: train\.epochs: 1: expected a number of at least 2"),
        ("epochs: 20", "epochs: 20, optimizer: adm", r"optimizer: 'adm': expected 'adam', 'adamw', 'sgd',"),
        ("epochs: 20", "epochs: 20, warmup_epochs: 20", r"warmup_epochs: 20: expected fewer than train\.epochs"),
        ("epochs: 20", "epochs: 20, augment: [hflip, hflip]", r"augment.*listed twice"),
        ("epochs: 20", "epochs: 20, weight_decay: .nan", r"weight_decay: nan: expected a finite number"),
        ("train: {epochs: 20}", "train: {epochs: 20}\nmodel: {arch: resnet81}",
         r"f\.yaml:3: model\.arch: 'resnet81': torchvision has no classification network.*Did you mean resnet18"),
        ("train: {epochs: 20}", "train: {epochs: 20}\nmodel: {arch: ViT}", r"'ViT': .*Did you mean vit_b_16"),
        ("train: {epochs: 20}", "train: {epochs: 20}\ndata: {normalize: {mean: [0, 0], std: [1, 1, 1]}}",
         r"data\.normalize\.mean: \[0, 0\]: expected three numbers"),
        ("train: {epochs: 20}", "train: {epochs: 20}\ndata: {normalize: imagnet}",
         r"data\.normalize: 'imagnet': expected 'none', 'imagenet', 'dataset' or 'auto'"),
        ("train: {epochs: 20}", "train: {epochs: 20}\ndata: {normalize: {mean: [0.5, 0.5], std: [1, 1, 1]}}",
         r"data\.normalize\.mean: \[0\.5, 0\.5\]: expected three numbers, of red, green and blue"),
        ("train: {epochs: 20}", "train: {epochs: 20}\ndata: {normalize: {mean: [0, 0, 0], std: [1, 1, 1, 1]}}",
         r"data\.normalize\.std: \[1, 1, 1, 1\]: expected three numbers, of red, green and blue"),
        ("1e-3", "0", r"f\.yaml:4: space\.lr: 0: expected a number greater than 0"),
        ("1e-3", "fast", r"f\.yaml:4: space\.lr: 'fast': expected a number greater than 0"),
        ("1e-3", "{choice: [1e-3, 1e-3]}", r"f\.yaml:4: space\.lr\.choice: .*1e-3 is listed twice"),
        ("1e-3", "{choice: []}", r"space\.lr\.choice"),
        ("1e-3", "{uniform: [1, 0.1]}", r"space\.lr\.uniform: \[1.0, 0.1\]: expected the lower bound first"),
        ("1e-3", "{uniform: [0.1, 0.25], step: 0.1}", r"0\.25 is not reached from 0\.1 in steps of 0\.1; write 0\.2"),
        ("1e-3", "{uniform: [0.1]}", r"space\.lr\.uniform"),
        ("1e-3", "{log_uniform: [0, 1]}", r"space\.lr\.log_uniform.*greater than 0"),
        ("1e-3", "{int: [0.1, 0.5]}", r"space\.lr\.int.*expected whole numbers"),
        ("1e-3", "{loguniform: [1e-4, 1]}", r"space\.lr.*one of choice, int, uniform, log_uniform, constant"),
        ("1e-3", "{uniform: [0.1, 0.2], stepp: 0.1}", r"space\.lr\.stepp.*unknown key.*Allowed: uniform, step"),
        ("1e-3", "{choice: [1], int: [1, 2]}", r"space\.lr\.int: unknown key\. Allowed: choice"),
        ("1e-3", "{choice: [1e-3, .nan]}", r"space\.lr\.choice\.1: nan: expected a finite number$"),
        ("1e-3", "{choice: [[1]]}", r"^f\.yaml:4: space\.lr\.choice\.0\.0: 1: expected text \(in quotes[^\n]*$"),
        ("1e-3", "[1, 2]", r"space\.lr: \[1, 2\]: expected a value, or one of choice.*such as \{choice: \[1, 2\]\}$"),
        ("1e-3", "1" + 400 * "0", r"space\.lr: 10{76}\.\.\.: expected a number greater than 0"),
        ("1e-3", "{uniform: [1, 2, 3]}", r"space\.lr\.uniform: \[1, 2, 3\]: expected two bounds, the lower one first"),
        ("1e-3", "{uniform: [0.001, 1], step: 1e-12}", r"space\.lr\.uniform: .*more than 1,000,000 values; take a larger step"),
        ("1e-3", "{uniform: [1e-300, 1e+308], step: 1e-300}", r"space\.lr\.uniform: .*more than 1,000,000 values"),
        ("{choice: [5, 10]}", "{int: [5, 12], step: 0}", r"space\.swa_start\.step: 0: expected a number greater than 0"),
        ("{choice: [5, 10]}", "{int: [5, 11], log: true, step: 2}", r"space\.swa_start\.step: 2: a step and log exclude each other"),
        ("{choice: [5, 10]}", "{choice: [0.25, 5]}", r"space\.swa_start\.choice: \[0\.25, 5\]: 5 is listed twice"),
        ("{choice: [5, 10]}", "'inf'", r"space\.swa_start: 'inf': expected a whole number from 0 to 18"),
        ("  lr: 1e-3\n", "", r"f\.yaml:3: space: lr is missing"),
        ("lr:", "learning_rate:", r"f\.yaml:4: space\.learning_rate: unknown parameter"),
        ("[5, 10]", "[5, 19]", r"f\.yaml:5: space\.swa_start\.choice\.1: 19: expected a whole number from 0 to 18"),
        ("[5, 10]", "[5, 5.5]", r"swa_start\.choice\.1: 5\.5: expected a whole number from 0 to 18"),
        ("[5, 10]", "[-1, 5]", r"swa_start\.choice\.0: -1: expected a whole number from 0 to 18"),
        ("{choice: [5, 10]}", "{uniform: [0.2, 0.9]}", r"space\.swa_start: .*expected choice or int"),
        ("name: x", "name: x/y", r"f\.yaml:1: name: 'x/y': expected letters, digits"),
        ("name: x", "nam: x", r"f\.yaml:1: name is missing"),
        ("name: x", "name: x\nname: y", r"f\.yaml:2: name is listed twice"),
        ("name: x", "name: x\nsearch: {sampler: grid}", r"swa_lr.*a grid takes choice and stepped ranges only"),
        ("name: x", "name: x\npoints: [{swa_start: 5}]", r"f\.yaml:2: points\.0: swa_lr is missing"),
        ("name: x", "name: x\npoints: [{swa_start: 6, swa_lr: 1e-3}]", r"swa_start is outside the space; allowed: one of 5, 10"),
        ("name: x", "name: x\npoints: [{swa_start: 5, swa_lr: 1}]", r"swa_lr is outside the space; allowed: from 1e-4 to 0\.01"),
        ("name: x", "name: x\npoints: [{swa_start: 5, swa_lr: 1e-3, lr: 1}]", r"points\.0\.lr: 1: the space fixes it at 1e-3"),
        ("name: x", "name: x\npoints: [{swa_start: 5, swa_lr: 1e-3, foo: 1}]", r"points\.0\.foo: 1: not a parameter"),
        ("name: x", "name: x\nbaseline: {points: [{swa_start: 5}]}", r"baseline\.points\.0\.swa_start: 5: not a parameter"),
        ("name: x", "name: x\nbaseline: {points: []}", r"baseline.*points is empty"),
        ("name: x", "name: x\nbaseline: {trials: some}", r"baseline\.trials: 'some': expected 'auto' or a whole number$"),
        ("name: x", "name: x\nscheduler: {trunk_rungs: [-1]}", r"^f\.yaml:2: scheduler\.trunk_rungs\.0: -1: expected a number of at least 0$"),
        ("name: x", "name: x\npoints: [{swa_start: 5, swa_lr: {choice: [1]}}]", r"points\.0\.swa_lr: expected one value .*or a list of texts$"),
        ("name: x", "name: x\nsearch: {trials: 1}\npoints: [{swa_start: 5, swa_lr: 1e-3}, {swa_start: 10, swa_lr: 1e-3}]", r"f\.yaml:3: points: there are 2, but search\.trials is 1; raise it to 2"),
        ("name: x", "name: x\nsearch: 4", r"search: 4: expected settings of its own"),
        ("name: x", "name: 3", r"name: 3: expected text \(in quotes"),
        ("name: x", "name: x\nbaseline: {points: [{}], trials: 3}", r"baseline.*either trials or points"),
        ("name: x", "name: x\nresources: {gpus_per_trial: 1.5}", r"gpus_per_trial: 1\.5: expected 'auto' or a number of at most 1"),
        ("name: x", "name: x\nscheduler: {grace_epochs: 30}", r"scheduler\.grace_epochs: 30: expected at most"),
        ("name: x", "name: x\nscheduler: {trunk_rungs: [3, 2]}", r"scheduler\.trunk_rungs: \[3, 2\]: expected rising epochs"),
        ("name: x", "name: x\nscheduler: {branch_rungs: [19]}", r"scheduler\.branch_rungs: \[19\]: expected rising"),
        ("name: x", "name: x\nsearch: {trials: 0}", r"search\.trials: 0: expected a number greater than 0"),
        ("space:\n", "space:\n  train.warmup_epochs: {int: [1, 20], log: true}\n", r"space\.train\.warmup_epochs: 20: expected fewer"),
        ("name: x", "- x", r"not readable as YAML|expected settings"),
        ("space:\n", "space:\n  train.epochs: {choice: [10, 20]}\n", r"train\.epochs: cannot be searched: rungs"),
        ("space:\n", "space:\n  train.batch_size: {choice: [0, 20]}\n", r"batch_size\.choice\.0: 0: expected a number of at least 2"),
        ("space:\n", "space:\n  train.optimizer: {int: [1, 2]}\n", r"train\.optimizer.*expected 'adam'"),
        ("space:\n", "space:\n  train.batch_size: {uniform: [16, 32]}\n", r"expected choice or int: the values are whole"),
        ("space:\n", "space:\n  train.batch_size: {int: [2, 1000000000]}\n", r"train\.batch_size\.int: .*more than 1,000,000 values"),
        ("space:\n", "space:\n  train.batch_size: {choice: [2, 10000000000000000000]}\n", r"train\.batch_size\.choice\.1: 1.*fits in 64 bits"),
    ],
)  # fmt: skip
def test_mistakes_name_place_value_and_remedy(old: str, new: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(RequestError, match=message) as caught:
        yaml_file.parse_experiment(GOOD.replace(old, new, 1), "f.yaml")
    assert caught.value.exit_code == 2
    assert "Traceback" not in str(caught.value)


def test_all_problems_are_told_at_once() -> None:
    text = GOOD.replace("1e-3", "-1").replace("[5, 10]", "[5, 50]")
    with pytest.raises(RequestError) as caught:
        yaml_file.parse_experiment(text, "f.yaml")
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == ["f.yaml:4:", "f.yaml:5:"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff\xfe\x00", "not a text file in UTF-8"),
        (b"a: [", "not readable as YAML"),
        (b"", "expected settings"),
        (b"a: &x [*x]", "an alias repeats itself"),
        (b"a: &a [0,0,0,0,0,0,0,0,0,0]\n" + b"".join(
            b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("g"))
        ), "more than 100,000 values; write out what aliases multiply"),
        (b"#" * 300_000, "larger than 262,144 bytes, so it is no space file"),
        (b"a: 1\n\tb: 2", r"f\.yaml:2: not readable as YAML.*Indent with spaces"),
        (b"a: 1\n---\nb: 2", "expected a single document in the stream, but found another"),
        (b"name: !!python/object:os.system {}", "not allowed|unknown key|expected"),
        (b"? [a]\n: b", "a key must be a word"),
        (b"a: \x00", "not readable as YAML"),
        (b"[" * 5000, "not readable as YAML|nested too deeply"),
    ],
)  # fmt: skip
def test_files_that_are_no_space_files(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=message):
        yaml_file.load_experiment(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such space file"):
        yaml_file.load_experiment(tmp_path / "none.yaml")
    with pytest.raises(RequestError, match="is a folder"):
        yaml_file.load_experiment(tmp_path)


# ------------------------------------------------------------------------------------------- --set


def test_overrides() -> None:
    spec = yaml_file.parse_experiment(
        GOOD,
        overrides=[
            "train.epochs=30",
            "space.lr={choice: [1e-4, 5e-5]}",
            "space.train.weight_decay={choice: [0, 1e-4]}",
            "search.sampler=random",
            "points=[{lr: 5e-5, swa_start: 5, swa_lr: 1e-3}]",
            "points.0.swa_start=10",
        ],
    )
    assert spec.train.epochs == 30
    assert values(spec, "lr") == (1e-4, 5e-5)
    assert [p.name for p in spec.parameters][-1] == "train.weight_decay"
    assert spec.search.sampler == "random"
    assert spec.swa_points[0]["swa_start"] == 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epochs", "expected KEY=VALUE"),
        ("train.epochs=[", "not readable as YAML"),
        ("train.epoch=3", r"--set train\.epoch=3: train\.epoch: unknown key\. Did you mean epochs"),
        ("train.epochs=3", r"space\.swa_start\.choice\.0: 5: expected a whole number from 0 to 1"),
        ("name.x=3", "name has no settings below it"),
        ("points.0.lr=3", "points"),
    ],
)
def test_wrong_overrides(override: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        yaml_file.parse_experiment(GOOD, "f.yaml", [override])


# --------------------------------------------------------------------------------------- properties


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_is_a_space_or_a_readable_error(text: str) -> None:
    try:
        yaml_file.parse_experiment(text, "f.yaml")
    except RequestError as error:
        assert str(error)


_leaf = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 50),
    st.floats(),
    st.sampled_from(["5e-5", "x", "auto", "inf", "nan", 10**12, 10**30, 10**400]),
)
_tree = st.recursive(
    _leaf,
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choice", "int", "uniform", "log_uniform", "step", "log", "constant", "lr", "swa_lr"]
            ),
            below,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "name": st.just("x"),
            "space": st.fixed_dictionaries({"lr": _tree, "swa_start": _tree, "swa_lr": _tree}),
        },
        optional={"points": _tree, "train": _tree, "baseline": _tree, "scheduler": _tree},
    )
)
def test_any_document_is_a_space_or_a_readable_error(document: dict[str, object]) -> None:
    text = yaml.safe_dump(document)
    try:
        spec = yaml_file.parse_experiment(text, "f.yaml")
    except RequestError as error:
        assert "f.yaml" in str(error)
        return
    for parameter in spec.parameters:
        enumerated = parameter.domain.list_values()
        if enumerated is not None:
            assert all(v in parameter.domain for v in enumerated)
    for point in spec.swa_points:
        assert spec.run_settings("swa", point).fork_epoch is not None


@settings(max_examples=100, deadline=None)
@given(st.floats(min_value=1e-12, max_value=1e12))
def test_formatted_numbers_read_back(number: float) -> None:
    assert float(format_value(number)) == number


@pytest.mark.parametrize(
    ("value", "text"),
    [(5e-5, "5e-5"), (1e-4, "1e-4"), (0.05, "0.05"), (1e-3, "1e-3"), (90, "90"), (1.0, "1"), (0.00123, "1.23e-3"),
     (("hflip", "crop"), "hflip+crop"), ((), "none"), (True, "true"), ("adam", "adam"), (0.0, "0")],
)  # fmt: skip
def test_formats(value: object, text: str) -> None:
    assert format_value(value) == text  # type: ignore[arg-type]


def test_enumeration_counts_and_does_not_repeat() -> None:
    spec = yaml_file.load_experiment(ROOT / "search_spaces" / "swa_grid.yaml")
    points = list(enumerate_space(spec.parameters))
    assert len(points) == count_space(spec.parameters) == 45
    assert len({params_key(p) for p in points}) == 45


def test_whole_numbers_are_finitely_many_also_on_a_logarithmic_scale() -> None:
    spec = experiment(space={**SPACE, "swa_lr": 1e-3, "train.batch_size": {"int": [8, 10], "log": True}})
    assert count_space(spec.parameters) == len(list(enumerate_space(spec.parameters))) == 6
    assert spec.swa_trials == 6
    with pytest.raises(ValidationError, match="a grid takes choice and stepped ranges only"):
        spec.model_validate({**spec.model_dump(by_alias=True), "search": {"sampler": "grid"}})


def test_a_range_of_one_value_is_a_constant() -> None:
    spec = experiment(space={**SPACE, "lr": {"uniform": [0.1, 0.1]}, "swa_start": {"int": [7, 7]}})
    assert spec.constants == {"lr": 0.1, "swa_start": 7}


def test_settings_do_not_change_after_validation() -> None:
    with pytest.raises(ValidationError):
        TrainSpec().epochs = 3  # type: ignore[misc]


def test_labels_name_what_the_space_fixes_too() -> None:
    spec = experiment(
        space={"lr": {"choice": [1e-3, 1e-2]}, "swa_start": 5, "swa_lr": 5e-4, "train.momentum": 0.8}
    )
    assert spec.format_label({"lr": 1e-2}, swa=True) == "SWA_5_5e-4 lr=0.01"
    assert spec.format_label({"lr": 1e-2}, swa=False) == "baseline lr=0.01"


def test_only_a_setting_that_changes_the_division_is_part_of_what_a_resume_must_have() -> None:
    """A search of before the setting was there has none of it."""
    settings = {
        value: Experiment.model_validate({"name": "x", "space": SPACE, "data": {"duplicates": value}})
        for value in ("warn", "error", "group")
    }
    assert settings["warn"].fixed_settings() == settings["error"].fixed_settings()
    assert "duplicates" not in settings["warn"].fixed_settings()["data"]
    assert settings["group"].fixed_settings()["data"]["duplicates"] == "group"
