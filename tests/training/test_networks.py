"""Networks by name: which there are, what their heads are, and what images they take."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch.nn.modules.batchnorm import _BatchNorm

from tune_swa.config import DataSpec, Experiment, ModelSpec
from tune_swa.config.network_names import TORCHVISION_NETWORKS
from tune_swa.errors import RequestError
from tune_swa.training.network_checks import (
    check_frozen,
    check_network,
    count_weights_of,
    list_network_notes,
    resolve_normalization,
)
from tune_swa.training.networks import (
    build_network,
    build_shapes,
    has_batch_norm,
    list_architectures,
    name_head_parameters,
)
from tune_swa.training.published_weights import read_preprocessing

TIMM_NETWORKS = (
    *("timm/resnet18", "timm/resnet18.a1_in1k", "timm/convnext_atto", "timm/vit_tiny_patch16_224"),
    *("timm/vit_base_r26_s32_224", "timm/volo_d1_224", "timm/swin_tiny_patch4_window7_224"),
    *("timm/efficientnet_lite0", "timm/deit_tiny_distilled_patch16_224"),
)


def describe_experiment(**changes: object) -> Experiment:
    return Experiment.model_validate(
        {"name": "x", "space": {"lr": {"choice": [1e-3]}, "swa_start": 5, "swa_lr": 1e-3}, **changes}
    )


def test_the_names_are_those_of_torchvision() -> None:
    assert set(TORCHVISION_NETWORKS) <= set(torchvision.models.list_models(module=torchvision.models))
    listed = list_architectures()
    assert listed[: len(TORCHVISION_NETWORKS)] == TORCHVISION_NETWORKS
    assert "timm/resnet18" in listed


@pytest.mark.parametrize("arch", [*TORCHVISION_NETWORKS, *TIMM_NETWORKS])
def test_the_head_is_what_depends_on_the_number_of_classes(arch: str) -> None:
    shapes = [{n: p.shape for n, p in build_shapes(arch, c, 224).named_parameters()} for c in (7, 9)]
    differing = {name for name in shapes[0] if shapes[0][name] != shapes[1][name]}
    assert differing == set(name_head_parameters(build_shapes(arch, 7, 224))) != set()


def test_a_network_of_shapes_alone_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    network = build_shapes("regnet_y_400mf", 3)
    assert {p.device.type for p in (*network.parameters(), *network.buffers())} == {"meta"}
    assert torch.equal(before, torch.random.get_rng_state())


def test_networks_with_further_classifiers_are_built_without_them() -> None:
    network = build_network("googlenet", 3)
    assert network.train()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert {name.partition(".")[0] for name in network.state_dict()} >= {"fc", "inception5b"}
    assert not any(name.startswith("aux") for name in network.state_dict())


@pytest.mark.parametrize(
    ("arch", "expected"),
    [
        ("resnet18", True),
        ("convnext_tiny", False),
        ("vit_b_16", False),
        ("efficientnet_b0", True),
        ("vgg11", False),
    ],
)
def test_batch_normalisation_is_found(arch: str, expected: bool) -> None:
    network = build_shapes(arch, 3)
    assert has_batch_norm(network) is expected
    assert any(isinstance(module, _BatchNorm) for module in network.modules()) is expected


@pytest.mark.parametrize(
    ("arch", "size", "advice"),
    [
        ("vit_b_16", 40, "Give 32 or 48 (--set data.image_size=48)"),
        ("inception_v3", 32, "Give 75"),
        ("maxvit_t", 64, "Input size (16, 16) of block 0 is not divisible"),
        ("alexnet", 32, "Give 64"),
        ("vgg11", 16, "Give 32"),
    ],
)
def test_sizes_that_a_network_does_not_take(arch: str, size: int, advice: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_network(ModelSpec(arch=arch), size)
    text = str(caught.value)
    assert text.startswith(f"data.image_size: {arch} does not take images of {size} px (")
    assert advice in text
    check_network(ModelSpec(arch=arch), int(text.partition("data.image_size=")[2].partition(")")[0]))


@pytest.mark.parametrize(
    "arch",
    [
        *("vit_b_16", "convnext_tiny", "efficientnet_b0", "regnet_y_400mf", "timm/resnet18"),
        "timm/vit_tiny_r_s16_p8_224",  # computes with numbers while it is built
    ],
)
def test_sizes_that_a_network_takes(arch: str) -> None:
    check_network(ModelSpec(arch=arch), 32)


def test_batch_normalisation_alone_is_frozen_only_where_there_is_some() -> None:
    def check(freeze: object, arch: str = "convnext_tiny", place: str = "train") -> None:
        given: dict[str, object] = {"model": {"arch": arch}, "train": {"freeze": freeze}}
        if place == "space":
            searched = {"lr": {"choice": [1e-3]}, "swa_start": 5, "swa_lr": 1e-3, "train.freeze": freeze}
            given = {"model": {"arch": arch}, "space": searched}
        check_frozen(describe_experiment(**given))

    check("backbone")
    check("bn", arch="efficientnet_b0")
    check("bn", arch="resnet18")
    check({"choice": ["none", "bn"]}, arch="resnet18", place="space")
    with pytest.raises(
        RequestError, match=r"convnext_tiny has no batch normalisation. Give --set train.freeze"
    ):
        check("bn")
    with pytest.raises(RequestError, match=r"Give --set space.train.freeze=none or backbone"):
        check("bn", place="space")
    with pytest.raises(RequestError, match=r"Leave bn out of space.train.freeze"):
        check({"choice": ["none", "bn"]}, place="space")


def test_networks_that_timm_does_not_have() -> None:
    with pytest.raises(RequestError, match="no network 'resnet81'. Did you mean timm/resnet"):
        check_network(ModelSpec(arch="timm/resnet81"), 32)


def test_published_weights_that_timm_does_not_have() -> None:
    """Known before anything is decoded, and to a dry run."""
    with pytest.raises(RequestError, match=r"no weights for convnext_atto_rms\. .*--set model\.weights=none"):
        check_network(ModelSpec(arch="timm/convnext_atto_rms", weights="imagenet"), 32)
    check_network(ModelSpec(arch="timm/convnext_atto_rms"), 32)
    check_network(ModelSpec(arch="timm/convnext_atto", weights="imagenet"), 32)


def test_without_timm_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(RequestError, match=r'pip install "tune-swa\[timm\]"'):
        build_network("timm/resnet18", 3)
    assert list_architectures() == TORCHVISION_NETWORKS


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"arch": "resnet18", "weights": "imagenet"}, "imagenet"),
        ({"arch": "resnet18"}, "none"),
        ({"arch": "efficientnet_v2_l", "weights": "imagenet"}, {"mean": [0.5] * 3, "std": [0.5] * 3}),
        ({"arch": "timm/vit_tiny_patch16_224", "weights": "w.pt"}, {"mean": [0.5] * 3, "std": [0.5] * 3}),
    ],
)
def test_auto_normalises_as_the_published_weights_want(model: dict[str, str], expected: object) -> None:
    resolved = resolve_normalization(describe_experiment(model=model, data={"normalize": "auto"}))
    assert resolved.model_dump(mode="json")["data"]["normalize"] == expected
    written = describe_experiment(model=model, data={"normalize": expected})
    assert resolved.fixed_settings() == written.fixed_settings()


def test_given_statistics_reach_the_images() -> None:
    from tune_swa.data import prepare_dataset

    given = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    data = prepare_dataset(DataSpec.model_validate({"image_size": 8, "normalize": given}))
    assert (data.mean, data.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_the_preprocessing_is_that_of_the_default_weights() -> None:
    for arch in TORCHVISION_NETWORKS:
        transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
        found = read_preprocessing(arch)
        assert (found.image_size,) == tuple(transforms.crop_size)
        assert (list(found.mean), list(found.std)) == (transforms.mean, transforms.std)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small"])
def test_the_plan_counts_the_parameters(arch: str) -> None:
    network = build_network(arch, 7)
    head = sum(p.numel() for n, p in network.named_parameters() if n in name_head_parameters(network))
    assert count_weights_of(arch, 7, 32) == (sum(p.numel() for p in network.parameters()), head)


def test_notes_name_what_is_different() -> None:
    def list_notes(size: int, **model: str) -> str:
        return "\n".join(list_network_notes(describe_experiment(model=model, data={"image_size": size})))

    assert list_notes(32) == list_notes(224, weights="imagenet") == ""
    assert "trained on images of 224 px, here are 64" in list_notes(64, weights="imagenet")
    assert "27.8 million parameters, and no batch normalisation" in list_notes(32, arch="convnext_tiny")
    assert list_notes(32, arch="resnet34") == "resnet34 has 21.3 million parameters"
