"""Weights of other networks than ResNet-18, from files and as they are published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import torchvision

from tune_swa.config import ModelSpec
from tune_swa.errors import RequestError
from tune_swa.training.model import build_model, describe_classifier, resolve_weights
from tune_swa.training.networks import build_network, name_head_parameters

State = dict[str, torch.Tensor]


def draw_state(arch: str, classes: int = 5, size: int = 32) -> State:
    torch.manual_seed(1)
    return dict(build_network(arch, classes, size).state_dict())


def load_file(arch: str, state: State, folder: Path, classes: int = 3, size: int = 32) -> State:
    """A network with so many outputs that starts from a file."""
    torch.save(state, folder / "w.pt")
    weights = resolve_weights(ModelSpec(arch=arch, weights=str(folder / "w.pt")), None, size)
    return dict(build_model(classes, 7, weights, arch=arch, image_size=size).state_dict())


@pytest.mark.parametrize(
    "arch",
    [
        *("mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5"),
        *("timm/convnext_atto", "timm/caformer_s18"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_a_file_brings_all_but_a_head_of_another_width(arch: str, prefix: str, tmp_path: Path) -> None:
    state = draw_state(arch)
    found = load_file(arch, {f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path)
    fresh = build_model(3, 7, arch=arch, image_size=32)
    heads = name_head_parameters(fresh)
    for name, tensor in found.items():
        expected = fresh.state_dict()[name] if name in heads else state[name]
        assert torch.equal(tensor, expected), name
    again = load_file(arch, state, tmp_path, classes=5)
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_the_layers_before_the_head_may_be_cut_off_with_it(tmp_path: Path) -> None:
    """Of mobilenet_v3 the classifier has a hidden layer, which files of features alone lack."""
    state = draw_state("mobilenet_v3_small")
    body = {name: tensor for name, tensor in state.items() if not name.startswith("classifier.")}
    found = load_file("mobilenet_v3_small", body, tmp_path)
    assert torch.equal(found["features.0.0.weight"], state["features.0.0.weight"])
    fresh = build_model(3, 7, arch="mobilenet_v3_small").state_dict()
    assert torch.equal(found["classifier.0.weight"], fresh["classifier.0.weight"])
    spec = ModelSpec(arch="mobilenet_v3_small", weights=str(tmp_path / "w.pt"))
    assert "no classifier was taken" in str(describe_classifier(spec, resolve_weights(spec), 3))


def test_another_network_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="is not of torchvision's regnet_y_400mf: it lacks stem.0.weight"):
        load_file("regnet_y_400mf", draw_state("mobilenet_v3_small"), tmp_path)
    with pytest.raises(RequestError, match=r"is not of timm's convnext_atto.*--set model\.arch=NAME"):
        load_file("timm/convnext_atto", draw_state("mobilenet_v3_small"), tmp_path)


def put_published(arch: str, state: State, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that a download would leave."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    (folder / "checkpoints").mkdir()
    entry = torchvision.models.get_model_weights(arch).DEFAULT
    torch.save(state, folder / "checkpoints" / entry.url.rpartition("/")[2])


def test_densenets_are_published_under_older_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = draw_state("densenet121", 1000)
    old = {re.sub(r"(norm|conv)([12])\.", r"\1.\2.", name): tensor for name, tensor in state.items()}
    assert old.keys() != state.keys()
    put_published("densenet121", old, tmp_path, monkeypatch)
    found = resolve_weights(ModelSpec(arch="densenet121", weights="imagenet"))
    assert found is not None
    assert found.keys() == state.keys()


def test_published_auxiliary_classifiers_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = torchvision.models.googlenet(num_classes=1000, aux_logits=True, init_weights=False)
    put_published("googlenet", dict(whole.state_dict()), tmp_path, monkeypatch)
    found = resolve_weights(ModelSpec(arch="googlenet", weights="imagenet"))
    model = build_model(3, 0, found, arch="googlenet")
    assert torch.equal(model.state_dict()["conv1.conv.weight"], whole.state_dict()["conv1.conv.weight"])


def test_position_embeddings_are_resized(tmp_path: Path) -> None:
    """As torchvision does, to 2 x 2 patches from 7 x 7."""
    from torchvision.models.vision_transformer import interpolate_embeddings

    state = draw_state("vit_b_32", 5, 224)
    found = load_file("vit_b_32", state, tmp_path, size=64)
    expected = interpolate_embeddings(64, 32, dict(state))["encoder.pos_embedding"]
    assert found["encoder.pos_embedding"].shape == (1, 5, 768)
    assert torch.equal(found["encoder.pos_embedding"], expected)
    assert torch.equal(found["class_token"], state["class_token"])


@pytest.mark.parametrize(
    ("arch", "advice"),
    [
        ("convnext_tiny", r"Put convnext_tiny-983f1562\.pth into .*checkpoints by hand"),
        (
            "timm/resnet18",
            r"Fetch model\.safetensors of timm/resnet18\.a1_in1k .*--set model\.weights=FILE",
        ),
        ("timm/vit_tiny_patch16_384.nope", r"no network"),
    ],
)
def test_without_a_network_the_message_says_which_file_goes_where(
    arch: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    import timm.models._builder as builder

    def refuse(*args: object, **more: object) -> None:
        raise OSError("no route to the host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(builder, "load_state_dict_from_hf", refuse)
    monkeypatch.setattr(builder, "load_state_dict_from_url", refuse)
    with pytest.raises(RequestError, match=advice):
        resolve_weights(ModelSpec(arch=arch, weights="imagenet"))


def test_timm_reads_its_own_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's loading code on a file, without the network; the classifier stays as published."""
    import timm.models._builder as builder

    state = draw_state("timm/vit_tiny_patch16_224", 1000, 224)
    monkeypatch.setattr(builder, "load_state_dict_from_hf", lambda *args, **more: dict(state))
    spec = ModelSpec(arch="timm/vit_tiny_patch16_224", weights="imagenet")
    found = resolve_weights(spec, None, 32)
    assert found is not None
    assert found["pos_embed"].shape == (1, 5, 192)
    assert torch.equal(found["head.weight"], state["head.weight"])
    model = build_model(3, 0, found, arch=spec.arch, image_size=32)
    assert torch.equal(model.state_dict()["cls_token"], state["cls_token"])
    assert model.state_dict()["head.weight"].shape == (3, 192)
