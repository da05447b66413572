"""Weights from elsewhere: the one network that fits is found, and what is not weights is named."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import re
import shlex
import subprocess
import sys
import tarfile
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models

from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.training.model import build_model, describe_classifier, hash_weights, resolve_weights

State = dict[str, Tensor]
CLASSES = 5


def network(value: float = 0.5, make: Callable[..., torch.nn.Module] = models.resnet18) -> State:
    """A state_dict whose tensors are one number each, stretched: files of it are small."""
    with torch.device("meta"):
        shapes = make(num_classes=CLASSES).state_dict()
    return {name: torch.full((), value).to(t.dtype).expand(t.shape) for name, t in shapes.items()}


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def body(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def children(state: State) -> State:
    """As `Sequential(*list(network.children())[:-1])` names them."""
    numbers = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {re.sub(r"^\w+", lambda m: str(numbers[m[0]]), name): t for name, t in body(state).items()}


def read(content: Any, folder: Path, key: str | None = None, **options: Any) -> tuple[State, str]:
    """What is resolved from a file with that content, and what is said of it."""
    torch.save(content, folder / "w.pt", **options)
    return resolve(folder / "w.pt", key)


def resolve(path: Path, key: str | None = None) -> tuple[State, str]:
    said: list[str] = []
    found = resolve_weights(ModelSpec(weights=str(path), weights_key=key), said.append)
    assert found is not None
    return dict(found), "\n".join(said)


MINE, OTHER = network(0.5), network(0.25)
ADAM = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
BESIDE = {"criterion.weight": torch.ones(CLASSES), "val_accuracy.confmat": torch.zeros(5, 5)}

FOUND: dict[str, tuple[object, str]] = {
    "plain": (MINE, ""),
    "net": ({"net": MINE, "acc": 93.1, "epoch": 7}, "took net"),
    "network": ({"network": MINE}, "took network"),
    "params": ({"params": MINE, "iter": 3}, "took params"),
    "model_state": ({"model_state": MINE, "optimizer_state": ADAM}, "took model_state; left out optimizer_state"),
    "module": ({"module": MINE, "ds_version": "1"}, "took module"),
    "ema-alone": ({"ema": MINE, "decay": 0.99}, "took ema"),
    "in-lists": ({"models": [{"weights": MINE}]}, "took models.0.weights"),
    "deep": ({"a": {"b": {"state_dict": prefixed("c.d.module.", MINE)}}}, "took a.b.state_dict.c.d.module"),
    "backbone": (prefixed("backbone.", MINE), "took backbone"),
    "resnet": ({"state_dict": prefixed("resnet.", MINE)}, "took state_dict.resnet"),
    "encoder": (prefixed("module.encoder.", MINE) | {"module.decoder.weight": torch.ones(2)},
                "took module.encoder; left out module.decoder"),
    "compiled": ({"model": prefixed("_orig_mod.", MINE)}, "took model._orig_mod"),
    "compiled-inside": (prefixed("model._orig_mod.module.", MINE), "took model._orig_mod.module"),
    "wrapped-parts": ({re.sub(r"^(\w+)\.", r"\1._orig_mod.", name): t for name, t in MINE.items()}, ""),
    "lightning": ({"state_dict": prefixed("model.", MINE) | BESIDE, "optimizer_states": [ADAM], "loops": {}},
                  "took state_dict.model; left out state_dict.criterion, state_dict.val_accuracy, optimizer_states"),
    "lightning-ema": ({"state_dict": prefixed("model.", MINE) | prefixed("ema_model.module.", OTHER)
                       | {"ema_model.n_averaged": torch.tensor(9)}},
                      "took state_dict.model; state_dict.ema_model.module would fit as well"),
    "timm": ({"state_dict": MINE, "state_dict_ema": OTHER}, "took state_dict; state_dict_ema would fit as well"),
    "model-and-ema": ({"model": MINE, "model_ema": prefixed("module.", OTHER), "optimizer": ADAM},
                      "took model; left out optimizer; model_ema.module would fit as well"),
    "basicsr": ({"params": MINE, "params_ema": OTHER}, "took params; params_ema would fit as well"),
    "averaged-model": ({"swa_model": {"n_averaged": torch.tensor(4), **prefixed("module.", MINE)}},
                       "took swa_model.module"),
    "moco": ({"state_dict": prefixed("module.encoder_q.", MINE) | prefixed("module.encoder_k.", OTHER)
              | {"module.queue": torch.ones(2, 3)}},
             "took state_dict.module.encoder_q; left out state_dict.module.queue; state_dict.module.encoder_k"),
    "byol": (prefixed("online_encoder.net.", MINE) | prefixed("target_encoder.net.", OTHER),
             "took online_encoder.net; target_encoder.net would fit as well"),
    "equal-copies": ({"first": MINE, "second": dict(MINE)}, "took first"),
    "state-dict-before-model": ({"model": OTHER, "state_dict": MINE}, "took state_dict; model would fit"),
    "parameters": ({name: torch.nn.Parameter(t) if t.is_floating_point() else t for name, t in MINE.items()}, ""),
}  # fmt: skip


@pytest.mark.parametrize("shape", FOUND)
def test_the_network_is_found(shape: str, tmp_path: Path) -> None:
    content, words = FOUND[shape]
    found, said = read(content, tmp_path)
    assert hash_weights(found) == hash_weights(MINE)
    assert said.removeprefix(f"model.weights: {tmp_path / 'w.pt'}: ").startswith(words)
    assert bool(said) == bool(words)
    model = build_model(CLASSES, 0, found)
    assert {float(p.detach().mean()) for p in model.parameters()} == {0.5}


WITHOUT_CLASSIFIER: dict[str, tuple[State, str]] = {
    "none": (body(MINE), ""),
    "sequential": (body(MINE) | {"fc.1.weight": torch.ones(9, 512), "fc.1.bias": torch.ones(9)}, "left out fc"),
    "two-layers": (prefixed("m.", body(MINE)) | {"m.fc.0.weight": torch.ones(64, 512), "m.fc.2.weight":
                   torch.ones(9, 64)}, "took m; left out m.fc"),
    "without-bias": (body(MINE) | {"fc.weight": torch.ones(9, 512)}, "left out fc"),
    "head-elsewhere": (prefixed("backbone.", body(MINE)) | {"head.fc.weight": torch.ones(9, 512)},
                       "took backbone; left out head"),
    "head-in-the-body": (body(MINE) | {"classifier.weight": torch.ones(9, 512)}, "left out classifier"),
    "children": (children(MINE), ""),
    "children-below": (prefixed("features.", children(MINE)) | {"classifier.1.bias": torch.ones(9)},
                       "took features; left out classifier"),
}  # fmt: skip


@pytest.mark.parametrize("shape", WITHOUT_CLASSIFIER)
def test_another_kind_of_classifier_is_left_out(shape: str, tmp_path: Path) -> None:
    content, words = WITHOUT_CLASSIFIER[shape]
    found, said = read(content, tmp_path)
    assert said.endswith(words)
    model = build_model(3, 0, found)
    assert torch.equal(model.fc.weight, build_model(3, 0).fc.weight)
    assert torch.equal(model.layer4[1].conv2.weight, MINE["layer4.1.conv2.weight"])
    spec = ModelSpec(weights="w.pt")
    assert "no classifier was taken; 3 classes get a fresh one" in str(describe_classifier(spec, found, 3))


def test_a_classifier_of_another_width_is_said_to_be_replaced() -> None:
    spec = ModelSpec(weights="w.pt")
    assert "its classifier has 5 classes; the 3 here get a fresh one" in str(
        describe_classifier(spec, MINE, 3)
    )
    assert describe_classifier(spec, MINE, CLASSES) is None
    assert describe_classifier(ModelSpec(weights="imagenet"), MINE, 3) is None
    assert describe_classifier(ModelSpec(), None, 3) is None


# ------------------------------------------------------------------------------ several networks


TWINS = {"state_dict": prefixed("left.", MINE) | prefixed("right.", OTHER)}


def test_of_several_networks_the_key_chooses(tmp_path: Path) -> None:
    message = r"holds 2 networks that fit, at state_dict\.left, state_dict\.right\. Choose one with --set"
    with pytest.raises(RequestError, match=message):
        read(TWINS, tmp_path)
    found, said = resolve(tmp_path / "w.pt", "state_dict.right")
    assert hash_weights(found) == hash_weights(OTHER)
    assert "took state_dict.right; state_dict.left would fit" in said
    with pytest.raises(
        RequestError, match=r"no network that fits at middle, but at state_dict\.left, state_dict\.right"
    ):
        resolve(tmp_path / "w.pt", "middle")
    found, said = read({"model": MINE, "model_ema": OTHER}, tmp_path, "model_ema")
    assert hash_weights(found) == hash_weights(OTHER)


def test_a_key_needs_a_file() -> None:
    with pytest.raises(ValueError, match=r"names a place in a file, but model\.weights is none"):
        ModelSpec(weights_key="ema")


def test_two_averages_are_not_told_apart(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="holds 2 networks that fit, at ema, swa"):
        read({"ema": MINE, "swa": OTHER}, tmp_path)


# ------------------------------------------------------------------------- what else is in a file


class AttributeDict(dict[str, Any]):
    """As Lightning's, with items and attributes."""


class Slots:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 3


class Stop(list[int]):
    """A list of its own."""


HARMLESS: dict[str, object] = {
    "namespace": argparse.Namespace(lr=0.1, path=Path("/data"), betas=(0.9, 0.99)),
    "simple-namespace": types.SimpleNamespace(lr=0.1),
    "numpy-scalars": {"best": np.float64(0.93), "step": np.int64(3), "ok": np.bool_(True)},
    "numpy-array": np.arange(3),
    "path": Path("/data/images"),
    "defaultdict": collections.defaultdict(list, {"loss": [1.0, 2.0]}),
    "items": AttributeDict(lr=0.1, best=np.float64(0.93)),
    "slots": Slots(),
    "list": Stop([1, 2]),
    "type": Slots,
    "function": os.path.join,
    "random-state": {"numpy": np.random.RandomState(0).get_state(), "torch": torch.get_rng_state()},
    "lambda-like": torch.nn.functional.relu,
    "device": torch.device("cuda:3"),
    "text": "ünïcode",
    "loop": None,
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", HARMLESS)
def test_other_objects_do_not_matter(name: str, legacy: bool, tmp_path: Path) -> None:
    content: dict[str, Any] = {"net": MINE, "args": HARMLESS[name]}
    if name == "loop":
        content["args"] = content
    found, said = read(content, tmp_path, _use_new_zipfile_serialization=not legacy)
    assert hash_weights(found) == hash_weights(MINE)
    assert "took net" in said


class Dangerous:
    """Writes a file if it is unpickled."""

    def __init__(self, call: Callable[..., object], argument: str) -> None:
        self.call = call, (argument,)

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside-a-network"])
@pytest.mark.parametrize("call", [os.system, eval, exec, subprocess.check_output, print])
def test_nothing_is_run(
    call: Callable[..., object], beside: bool, legacy: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = {
        os.system: f"touch {tmp_path}/run",
        subprocess.check_output: "false",
        print: "printed",
    }.get(call, f"open({str(tmp_path / 'run')!r}, 'w')")
    content = {"net": MINE, "x": Dangerous(call, script)} if beside else Dangerous(call, script)
    try:
        found, _ = read(content, tmp_path, _use_new_zipfile_serialization=not legacy)
        assert beside
        assert hash_weights(found) == hash_weights(MINE)
    except RequestError as error:
        assert "cannot be read as a state_dict" in str(error) or "holds no state_dict" in str(error)
    assert not (tmp_path / "run").exists()
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_are_read_as_fp32(dtype: torch.dtype, tmp_path: Path) -> None:
    found, _ = read({n: t.to(dtype) if t.is_floating_point() else t for n, t in MINE.items()}, tmp_path)
    assert hash_weights(found) == hash_weights(MINE)


def test_safetensors_are_read_whatever_the_file_is_called(tmp_path: Path) -> None:
    state = {name: tensor.contiguous() for name, tensor in MINE.items()}
    for name in ("w.safetensors", "w.bin"):
        save_file(prefixed("backbone.", state), tmp_path / name)
        found, said = resolve(tmp_path / name)
        assert hash_weights(found) == hash_weights(MINE)
        assert "took backbone" in said
    content = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(content[: len(content) // 2])
    with pytest.raises(RequestError, match=r"cannot be read as a state_dict \(it is damaged\)"):
        resolve(tmp_path / "w.bin")


# --------------------------------------------------------------------------- what is not weights


def zip_of(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def scripted(path: Path) -> None:
    with torch.no_grad():
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def cut(path: Path) -> None:
    torch.save(MINE, path)
    path.write_bytes(path.read_bytes()[:4000])


def tar_of_nothing(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "w.pt")


LFS = b"version https://git-lfs.example/spec/v1\noid sha256:00\nsize 46830571\n"
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.touch, r"\(it is empty\)\. Write it with torch\.save"),
    "lfs": (lambda p: p.write_bytes(LFS), "Git LFS pointer, not the file itself.*git lfs pull"),
    "annex": (lambda p: p.write_text("/annex/objects/MD5-s1--0\n"), "git-annex pointer.*git annex get"),
    "html": (lambda p: p.write_text("\n<!DOCTYPE html><html>"), "web page.*Download the file itself"),
    "html-plain": (lambda p: p.write_text("<html><head>"), "web page"),
    "xml": (lambda p: p.write_text("<?xml version='1.0'?><Error>AccessDenied"), "web page"),
    "gzip": (lambda p: p.write_bytes(b"\x1f\x8b\x08rest"), "gzip archive.*Unpack it"),
    "zip": (zip_of("README.md", "w.pt"), r"zip archive \(README\.md, w\.pt\)\)\. Unpack it"),
    "npz": (lambda p: np.savez(p.open("wb"), a=np.ones(1)), "arrays of numpy"),
    "hdf5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\nrest"), "HDF5 file, as Keras"),
    "tar": (tar_of_nothing, "cannot be read as a state_dict"),
    "torchscript": (scripted, r"TorchScript archive.*torch\.jit\.load"),
    "cut": (cut, "cut off after 4,000 bytes, or damaged.*download it again"),
    "pickle": (lambda p: pickle.dump(MINE, p.open("wb")), "written by pickle, not by torch.save"),
    "pickle-5": (lambda p: pickle.dump({"a": 1}, p.open("wb"), protocol=5), "written by pickle"),
    "protocol-4": (lambda p: torch.save(MINE, p, pickle_protocol=4), "pickle_protocol=4"),
    "json": (lambda p: p.write_text('{"net": 1}'), "torch.save has not written it"),
    "text": (lambda p: p.write_text("hello"), "torch.save has not written it"),
    "pipe": (os.mkfifo, "a device or a pipe"),
    "folder": (lambda p: (p.mkdir(), (p / "model.safetensors").touch()), "is a folder.*files: model.safetensors"),
    "tensor": (lambda p: torch.save(torch.ones(3), p), "holds no state_dict"),
    "numbers": (lambda p: torch.save({"net": {"a": 1}}, p), "holds no state_dict"),
    "cifar": (lambda p: torch.save({"net": MINE | {"conv1.weight": torch.ones(64, 3, 3, 3)}}, p),
              "is not of torchvision's resnet18 at net: it has other shapes for conv1.weight"),
    "deeper": (lambda p: torch.save(prefixed("backbone.", network(make=models.resnet34)), p),
               "resnet18 at backbone: it has unknown layer1.2.conv1.weight"),
    "bottleneck": (lambda p: torch.save(network(make=models.resnet50), p), "it has unknown layer1.0.conv3"),
    "other": (lambda p: torch.save(network(make=models.mobilenet_v3_small), p), "it lacks conv1.weight"),
    "parts": (lambda p: torch.save(dict(list(MINE.items())[:40]), p), "it lacks layer2"),
    "infinite": (lambda p: torch.save({"net": MINE | {"bn1.bias": torch.full((64,), torch.inf)}}, p),
                 "bn1.bias: not finite"),
    "overflow": (lambda p: torch.save(MINE | {"bn1.bias": torch.full((64,), 1e300, dtype=torch.float64)}, p),
                 "bn1.bias: not finite"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_weights_is_named(kind: str, tmp_path: Path) -> None:
    make, message = REFUSED[kind]
    make(tmp_path / "w.pt")
    with pytest.raises(RequestError, match=message) as caught:
        resolve(tmp_path / "w.pt")
    assert str(tmp_path / "w.pt") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_url_is_no_file() -> None:
    with pytest.raises(RequestError, match="it is a URL.*Download the file, and give its path"):
        resolve_weights(ModelSpec(weights="https://example.org/w.pt"))


def test_the_advice_on_a_whole_model_works(tmp_path: Path) -> None:
    """Followed as it is written."""
    model = models.resnet18(num_classes=CLASSES).half()
    torch.save({"epoch": 3, "ema": torch.nn.DataParallel(model)}, tmp_path / "it's a model.pt")
    with pytest.raises(RequestError, match=r"a whole model \(torch\.nn\.parallel.*DataParallel\)") as caught:
        resolve(tmp_path / "it's a model.pt")
    program, *arguments = shlex.split(str(caught.value).rpartition("write its weights with: ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *arguments], cwd=tmp_path, check=True)
    found, said = resolve(tmp_path / "weights.pt")
    assert hash_weights(found) == hash_weights(model.float().state_dict())
    assert "took module" in said


def test_a_whole_model_beside_weights_does_not_matter(tmp_path: Path) -> None:
    found, _ = read({"model": torch.nn.Linear(2, 2), "weights": MINE}, tmp_path)
    assert hash_weights(found) == hash_weights(MINE)
