"""Networks that plugins build: tried before anything trains, and trained like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.plugin_files import SMALL_NETWORK, loaded_plugin
from helpers.resumed_runs import resume_everywhere
from tune_swa import plugins
from tune_swa.config import AveragingSpec, Experiment, ModelSpec, RunSettings, TrainSpec
from tune_swa.config.cautions import list_cautions
from tune_swa.data.dataset import Dataset
from tune_swa.errors import RequestError
from tune_swa.training.export_formats import explain_untraceable
from tune_swa.training.mean_probability import load_networks
from tune_swa.training.model import build_model, resolve_weights
from tune_swa.training.network_checks import (
    check_frozen,
    check_network,
    count_weights_of,
    list_network_notes,
)
from tune_swa.training.networks import find_heads, name_head_parameters
from tune_swa.training.numerics import Numerics
from tune_swa.training.plugin_networks import list_plugin_files
from tune_swa.training.step_probe import Workload

HEAD = """\
import numpy as np
import torch
from torch import nn
import tune_swa


def flat(classes, **more):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes, **more))


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(192, classes)
        self.body = nn.Linear(192, 192)

    def forward(self, images):
        return self.head(self.body(images.flatten(1)))


class Evaluated(Net):
    def forward(self, images):
        return super().forward(images) if self.training else (super().forward(images),)


class Noisy(Net):
    def forward(self, images):
        return super().forward(images) * np.random.rand()


class Late(Net):
    def forward(self, images):
        self.register_buffer("seen", torch.ones(1))
        return super().forward(images)


class Expanded(Net):
    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("scale", torch.ones(1).expand(192))


class Counting(Net):
    def get_extra_state(self):
        return {"n": 1}

    def set_extra_state(self, state):
        pass


class Constant(Net):
    MEAN = torch.zeros(1)

    def __init__(self, classes):
        super().__init__(classes)
        self.register_buffer("mean", self.MEAN)


BODY = nn.Linear(192, 8)


def shared(classes):
    return nn.Sequential(nn.Flatten(), BODY, nn.Linear(8, classes))


def drifting(classes, calls=[]):
    calls.append(0)
    network = flat(classes)
    network[1].weight.data += len(calls)
    return network
"""


def make_settings(**train: object) -> RunSettings:
    return RunSettings(
        lr=1e-2,
        swa_start=1,
        swa_lr=5e-3,
        model=ModelSpec(arch="small"),
        train=TrainSpec.model_validate({"epochs": 4, "batch_size": 8, **train}),
        averaging=AveragingSpec(anneal_epochs=1),
    )


def test_a_run_trains_it_and_resumes(tiny_data: Dataset, tmp_path: Path) -> None:
    with loaded_plugin(tmp_path, SMALL_NETWORK):
        run, _ = resume_everywhere(make_settings(head_lr_factor=3.0), tiny_data, tmp_path)
        assert type(run.model).__name__ == "Small"
        assert [len(group["params"]) for group in run.optimizer.param_groups] == [4, 2]
        frozen, _ = resume_everywhere(make_settings(freeze="backbone"), tiny_data, tmp_path)
        assert [name for name, p in frozen.model.named_parameters() if p.requires_grad] == [
            "head.weight",
            "head.bias",
        ]
        model = build_model(3, 0, arch="small", image_size=8)
        assert name_head_parameters(model) == ("head.weight", "head.bias")
        assert count_weights_of("small", 3, 8) == (168 + 12 + 21, 21)
        torch.manual_seed(5)
        expected = torch.rand(())
        torch.manual_seed(5)
        assert torch.equal(build_model(3, 0, arch="small").state_dict()["head.weight"], model.head.weight)
        assert torch.rand(()) == expected


def test_low_precision_leaves_out_what_is_not_used_and_the_named_head(
    tiny_data: Dataset, tmp_path: Path
) -> None:
    text = SMALL_NETWORK.replace(
        "        self.body =",
        "        self.head = torch.nn.Linear(6, classes)\n"
        "        self.unused = torch.nn.Linear(2, 2)\n"
        "        self.body =",
    ).replace("        self.head = torch.nn.Linear(6, classes)\n\n", "\n")
    with loaded_plugin(tmp_path, text):
        low = make_settings(optimizer="sgd", arithmetic={"bits": 8})
        run, _ = resume_everywhere(low, tiny_data, tmp_path)
        start = build_model(3, 0, arch="small").state_dict()["unused.weight"]
        assert torch.equal(run.model.state_dict()["unused.weight"], start)
        with run.arithmetic.round_outputs(run.model):
            hooked = [name for name, layer in run.model.named_modules() if layer._forward_hooks]
        assert hooked == ["unused", "body.0"]


def test_the_probe_of_a_gpu_has_the_code(tmp_path: Path) -> None:
    numerics = Numerics("cpu", "fp32", threads=1, channels_last=True, fused=True, compile=False)
    with loaded_plugin(tmp_path, SMALL_NETWORK):
        workload = Workload(make_settings(), numerics, 8, 3, 20, 10, plugins.list_sources())
        sent = json.dumps(workload.as_dict())
    plugins.load_plugins([])
    try:
        assert Workload.from_dict(json.loads(sent)) == workload
        assert plugins.list_models() == ("small",)
    finally:
        plugins.load_plugins([])


def test_weights_of_a_file_fit_it(tmp_path: Path) -> None:
    with loaded_plugin(tmp_path, SMALL_NETWORK):
        state = build_model(5, 1, arch="small").state_dict()
        torch.save({"state_dict": state}, tmp_path / "w.pt")
        weights = resolve_weights(ModelSpec(arch="small", weights=str(tmp_path / "w.pt")), None, 8)
        model = build_model(3, 0, weights, arch="small")
        assert torch.equal(model.state_dict()["body.0.weight"], state["body.0.weight"])
        torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "other.pt")
        with pytest.raises(RequestError, match="a plugin's small"):
            resolve_weights(ModelSpec(arch="small", weights=str(tmp_path / "other.pt")), None, 8)


def test_without_a_name_the_head_is_the_last_layer(tmp_path: Path) -> None:
    with loaded_plugin(tmp_path, HEAD + "tune_swa.register_model('own', flat)\n"):
        check_network(ModelSpec(arch="own"), 8)
        [head] = find_heads(build_model(4, 0, arch="own"))
        assert isinstance(head, torch.nn.Linear)
        experiment = make_experiment(freeze="backbone")
        assert list_cautions(experiment) == []  # its builder may load weights
        assert list(list_network_notes(experiment)) == [
            "own has 579 parameters, and no batch normalisation: nothing is refreshed after averaging (0 s)"
        ]


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("lambda classes: 1 / 0", r"own: ZeroDivisionError: division by zero \(.*own.py, line 71\)$"),
        ("lambda: flat(3)", "TypeError: .*takes 0 positional arguments but 1 was given"),
        ("lambda classes: flat", r"its builder has to return a torch.nn.Module, got function"),
        ("lambda classes: flat(10)", r"maps 2 images of 8 px to \[2, 10\] where there are 3"),
        ("lambda classes: nn.Flatten(0)", "has no parameter that gets a gradient"),
        ("lambda classes: flat(classes, dtype=torch.float16)", "1.weight is torch.float16.*be float32"),
        ("lambda classes: nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))", "has lazy layers"),
        ("lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(9, classes))", "RuntimeError: .*mat1 and"),
        ("lambda classes: nn.Sequential(nn.Flatten(), nn.Linear(192, classes).requires_grad_(False))",
         "no parameter that gets a gradient"),
        ("drifting", r"1.weight differs between two networks of one seed.*Draw from torch"),
        ("flat, head='classifier'", "has no layer 'classifier', which register_model names as its head"),
        ("flat, head='0'", "'0', which register_model names as its head, has no parameters"),
        ("Net, head='body'", "the classifier of own is named body, and head is the layer that depends"),
        ("shared", "1.weight is the same tensor in two networks.*copy.deepcopy"),
        ("Evaluated, head='head'", "in eval mode maps 2 images of 8 px to tuple where there are 3 classes"),
        ("Noisy, head='head'", "gives two outputs for the same images from one seed"),
        ("Late, head='head'", "has other tensors in its state_dict once it was used"),
        ("Expanded, head='head'", r"scale has elements that share memory \(as expand makes them\); clone it"),
        ("Counting, head='head'", "_extra_state in its state_dict is no tensor"),
    ],
)  # fmt: skip
def test_mistakes_are_named_before_anything_trains(builder: str, message: str, tmp_path: Path) -> None:
    text = HEAD + f"tune_swa.register_model('own', {builder})\n"
    with loaded_plugin(tmp_path, text), pytest.raises(RequestError, match=message):
        check_network(ModelSpec(arch="own"), 8)


def test_a_classifier_that_is_not_the_last_layer_is_named_where_it_is_needed(tmp_path: Path) -> None:
    with loaded_plugin(tmp_path, HEAD + "tune_swa.register_model('own', Net)\n"):
        check_network(ModelSpec(arch="own"), 8)
        check_frozen(make_experiment())
        low = {"optimizer": "sgd", "arithmetic": {"bits": 8}}
        for train in ({"freeze": "backbone"}, {"head_lr_factor": 3.0}, low):
            with pytest.raises(
                RequestError,
                match=r"train.*: .* taken to be its last linear one, and head is .* head='head'\)$",
            ):
                check_frozen(make_experiment(**train))


def test_weights_that_the_builder_freezes_may_be_shared(tmp_path: Path) -> None:
    text = HEAD + "BODY.requires_grad_(False)\ntune_swa.register_model('own', shared)\n"
    with loaded_plugin(tmp_path, text):
        check_network(ModelSpec(arch="own"), 8)
        before = build_model(3, 0, arch="own").state_dict()["1.weight"]
        assert count_weights_of("own", 3, 8)[0] > 0
        assert torch.equal(build_model(3, 1, arch="own").state_dict()["1.weight"], before)


def test_constants_may_be_shared_and_the_classifier_may_come_first(tmp_path: Path) -> None:
    text = HEAD + "tune_swa.register_model('own', Constant, head='head')\n"
    with loaded_plugin(tmp_path, text):
        check_network(ModelSpec(arch="own"), 8)
        state = build_model(4, 0, arch="own").state_dict()
        about = {"num_classes": 4, "arch": "own", "preprocessing": {"image_size": 8}}
        assert torch.equal(load_networks([state], about).head.weight, state["head.weight"])


def test_a_layer_of_constants_that_networks_share_keeps_them(tmp_path: Path) -> None:
    """Names and shapes are read from a network without numbers, which is not to take those of the layer."""
    text = HEAD + (
        "class Scale(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('scale', torch.full((1,), 2.0))\n"
        "    def forward(self, images):\n"
        "        return images * self.scale\n"
        "SCALE = Scale()\n"
        "tune_swa.register_model('own', lambda classes: nn.Sequential(SCALE, flat(classes)))\n"
    )
    with loaded_plugin(tmp_path, text):
        check_network(ModelSpec(arch="own"), 8)
        assert count_weights_of("own", 3, 8) == (579, 579)
        assert build_model(3, 0, arch="own").state_dict()["0.scale"] == 2


@pytest.mark.parametrize(
    ("name", "file"),
    [("own", "own.py"), ("my.own", "my.own.py"), ("json", "plugin_json.py"), ("yaml", "plugin_yaml.py")],
)
def test_the_file_of_an_export_takes_no_name_of_another_module(name: str, file: str, tmp_path: Path) -> None:
    """classify.py would import it from its own folder."""
    with loaded_plugin(tmp_path, SMALL_NETWORK, name):
        assert [*list_plugin_files("small")] == [file]


def test_whatever_a_network_raises_is_why_it_has_no_program() -> None:
    class Reading(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            raise FileNotFoundError("no such table")

    assert explain_untraceable(Reading().eval(), 8) == "no such table"


def test_no_classifier_can_be_apart_where_no_layer_is_one(tmp_path: Path) -> None:
    text = HEAD + (
        "class Rows(nn.Module):\n"
        "    def __init__(self, classes):\n"
        "        super().__init__()\n"
        "        self.body, self.rows = nn.Linear(192, 4), nn.Parameter(torch.rand(4, classes))\n"
        "    def forward(self, images):\n"
        "        return self.body(images.flatten(1)) @ self.rows\n"
        "tune_swa.register_model('own', Rows)\n"
    )
    with loaded_plugin(tmp_path, text):
        before = torch.random.get_rng_state()
        check_network(ModelSpec(arch="own"), 8)
        check_frozen(make_experiment())
        for train in ({"freeze": "backbone"}, {"head_lr_factor": 3.0}):
            with pytest.raises(RequestError, match=f"train.{next(iter(train))}: no layer of own is known as"):
                check_frozen(make_experiment(**train))
        assert torch.equal(torch.random.get_rng_state(), before)


def make_experiment(**train: object) -> Experiment:
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    return Experiment.model_validate(
        {
            "name": "x",
            "model": {"arch": "own"},
            "train": train,
            "data": {"image_size": 8},
            "averaging": {"anneal_epochs": 2},
            "space": space,
        }
    )


def test_settings_that_need_published_weights(tmp_path: Path) -> None:
    with (
        loaded_plugin(tmp_path, SMALL_NETWORK),
        pytest.raises(RequestError, match="nobody publishes weights"),
    ):
        check_network(ModelSpec(arch="small", weights="imagenet"), 8)


def test_unknown_networks_may_be_a_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "_recorded", {})  # those of tests before this one
    with loaded_plugin(tmp_path, SMALL_NETWORK):
        with pytest.raises(
            ValueError, match=r"Did you mean small\?.*--plugin MODULE one of your own \(small\)"
        ):
            ModelSpec(arch="smal")
        described = plugins.describe_sources()
    with pytest.raises(ValueError, match="--plugin MODULE one of your own"):
        ModelSpec(arch="small")
    plugins.recall_models(described)
    model = ModelSpec(arch="small")  # of an experiment that is read
    with pytest.raises(RequestError, match=r"small is built by a plugin. Add --plugin .*own.py"):
        check_network(model, 8)
