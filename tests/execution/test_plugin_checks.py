"""What plugins register is tried before anything is trained: one clear message for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.drawn_arrays import draw_dataset
from helpers.plugin_files import SMALL_NETWORK, loaded_plugin
from tune_swa import plugins
from tune_swa.config import Experiment, RunSettings
from tune_swa.errors import RequestError
from tune_swa.execution.plugin_checks import check_augmentations, check_same_plugins
from tune_swa.execution.warm_up import warm_up
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.training.numerics import decide_numerics

HEAD = "import numpy as np\nimport torch\nimport tune_swa\n\n"


def make_experiment(**sections: object) -> Experiment:
    space = {"lr": 1e-3, "swa_start": 3, "swa_lr": 1e-3}
    return Experiment.model_validate(
        {
            "name": "x",
            "data": {"image_size": 8},
            "averaging": {"anneal_epochs": 1},
            "space": space,
            **sections,
        }
    )


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            "lambda image, generator: image.float()",
            r"own.py\): returned torch.float32 \[3, 8, 8\]; expected an",
        ),
        ("lambda image, generator: image[:, ::2]", r"returned torch.uint8 \[3, 4, 8\]"),
        ("lambda image, generator: None", "returned NoneType"),
        ("lambda image: image", r"plugin/mine: TypeError: .* takes 1 positional argument but 2 were given$"),
        ("lambda image, generator: 1 / 0", r"plugin/mine: ZeroDivisionError: division by zero \(.*line 5\)"),
        ("lambda image, generator: image + np.random.randint(100)", "gives two images from one seed"),
        (
            "lambda image, generator: image.flip(1) if np.random.rand() < 0.2 else image",
            "gives two images from one seed",
        ),
        ("lambda image, generator: image // (image.max() - image.min())", "RuntimeError: ZeroDivisionError"),
        ("lambda image, generator: image.view(-1).flip(0)", "view size is not compatible"),
    ],
)
def test_augmentations_are_tried(function: str, message: str, tmp_path: Path) -> None:
    experiment = make_experiment(train={"augment": ["hflip", "plugin/mine"]})
    text = HEAD + f"tune_swa.register_augmentation('mine', {function})\n"
    with loaded_plugin(tmp_path, text), pytest.raises(RequestError, match=message):
        check_augmentations(experiment)


def test_an_augmentation_that_draws_as_it_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = make_experiment(train={"augment": ["plugin/mine"]})
    text = HEAD + (
        "def change(image, generator):\n"
        "    flips = torch.rand((), generator=generator) < 0.5\n"
        "    return image.flip(int(torch.randint(3, ()))) if flips else image\n"
        "tune_swa.register_augmentation('mine', change)\n"
    )
    with loaded_plugin(tmp_path, text):
        check_augmentations(experiment)
    with pytest.raises(
        RequestError, match=r"no plugin has registered plugin/mine.*none. Add --plugin MODULE"
    ):
        check_augmentations(experiment)
    monkeypatch.setattr(plugins, "_augmentations", {})
    plugins.register_augmentation("mine", lambda image, generator: image)
    with pytest.raises(RequestError, match="registered outside of a plugin.*name that with --plugin"):
        check_augmentations(experiment)


def begin_with_plugins() -> ExperimentCreated:
    nothing: dict[str, object] = {}
    return ExperimentCreated(
        format=1, version="0", spec=nothing, identity=nothing, data=nothing, numerics=nothing,
        hardware=nothing, versions=nothing, plugins=plugins.describe_sources(),
    )  # fmt: skip


def test_a_resumed_search_has_the_plugins_that_it_began_with(tmp_path: Path) -> None:
    text = HEAD + "tune_swa.register_augmentation('mine', lambda image, generator: image)\n"
    check_same_plugins(begin_with_plugins())
    tmp_path = tmp_path / "my code"
    tmp_path.mkdir()
    with loaded_plugin(tmp_path, text) as path:
        begun = begin_with_plugins()
        check_same_plugins(begun)
        assert begun["plugins"]["own"]["augmentations"] == ["mine"]
    with pytest.raises(RequestError, match=rf"began with a plugin \({path}\). Add --plugin '{path}'$"):
        check_same_plugins(begun)
    with (
        loaded_plugin(tmp_path, text + "\n# changed\n"),
        pytest.raises(RequestError, match=r"own.py has changed since this search began.*Restore the file"),
    ):
        check_same_plugins(begun)
    with (
        loaded_plugin(tmp_path, text),
        loaded_plugin(tmp_path, "", "second"),
        pytest.raises(RequestError, match="--plugin second: this search began without it. Leave it out"),
    ):
        check_same_plugins(begun)


def test_a_worker_warms_up_at_the_size_of_the_images(tmp_path: Path) -> None:
    """Whatever a plugin calls its network: of those of torchvision, a resnet takes smaller images as well."""
    text = SMALL_NETWORK.replace('"small"', '"resnet_own"').replace(
        "return self", "assert images.shape[-1] == 40\n        return self"
    )
    data = draw_dataset(train=8, val=4, test=4, size=40)
    with loaded_plugin(tmp_path, text):
        settings = RunSettings.model_validate({"lr": 1e-3, "model": {"arch": "resnet_own"}})
        warm_up(settings, data, decide_numerics(settings.train, 40, device="cpu", threads=1))
