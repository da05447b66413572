"""A run as a Ray trainable of its own: what it reports, and that it goes on from a checkpoint exactly."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray import tune
from ray.tune.registry import get_trainable_cls
from ray.tune.schedulers import HyperBandScheduler
from ray.tune.search.optuna import OptunaSearch

import tune_swa
from helpers.narrow_resnet import narrow_environment
from helpers.programs import ROOT, run_program
from tune_swa import plugins
from tune_swa.config import Experiment
from tune_swa.config.optuna_distributions import to_distribution
from tune_swa.data.dataset import prepare_dataset
from tune_swa.training.metrics import NonFiniteError
from tune_swa.training.model import build_model
from tune_swa.training.numerics import decide_numerics
from tune_swa.training.run import Run

SPACE: dict[str, Any] = {
    "name": "plain",
    "data": {
        "dataset": "digits",
        "image_size": 8,
        "train_images": 40,
        "val_fraction": 0.2,
        "test_fraction": 0.9,
    },
    "train": {"epochs": 4, "batch_size": 20},
    "averaging": {"anneal_epochs": 1},
    "averages": [{"method": "swa"}, {"method": "lawa", "last": 2}],
    "space": {
        "lr": {"log_uniform": [1e-4, 1e-1]},
        "swa_start": {"int": [0, 1]},
        "swa_lr": {"log_uniform": [1e-4, 1e-1]},
    },
}
CONFIG = {"lr": 1e-2, "swa_start": 1, "swa_lr": 3e-3}
TIMES = {"train_seconds", "bn_seconds", "eval_seconds", "images_per_second"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow_network: None, decoded: None) -> Path:
    """Trainables are made in this process, with their folders in this one."""
    monkeypatch.setattr("ray.tune.trainable.trainable.DEFAULT_STORAGE_PATH", str(tmp_path))
    return tmp_path


def run_epochs(config: dict[str, Any], space: dict[str, Any] = SPACE) -> list[dict[str, Any]]:
    """What a run of ours reports with these values, without the times."""
    experiment = Experiment.model_validate(space)
    data = prepare_dataset(experiment.data)
    kind = "baseline" if config["swa_start"] is None else "swa"
    settings = experiment.run_settings(kind, config)
    numerics = decide_numerics(settings.train, data.images.shape[1], device="cpu", threads=1)
    return [drop_times(record.as_dict()) for record in Run(settings, data, numerics)]


def drop_times(result: dict[str, Any]) -> dict[str, Any]:
    wanted = {"epoch", "phase", "learning_rate", "train_loss", "accuracy", "live_accuracy", "nll", "ece"}
    return {name: result[name] for name in [*sorted(wanted), "n_averaged"]}


def test_a_trial_reports_the_run_and_goes_on_exactly_from_any_checkpoint(here: Path) -> None:
    before = torch.get_num_threads()
    kind = tune_swa.trainable(SPACE)
    expected = run_epochs(CONFIG)
    assert [record["phase"] for record in expected] == ["trunk", "trunk", "branch", "branch"]
    trial, results, folders = kind(dict(CONFIG)), [], []
    for epoch in range(4):
        results.append(trial.train())
        folders.append(here / str(epoch))
        folders[-1].mkdir()
        trial.save_checkpoint(str(folders[-1]))
    assert [drop_times(result) for result in results] == expected
    assert [result["done"] for result in results] == [False, False, False, True]
    other = kind({**CONFIG, "lr": 3e-2})
    other.train()
    for epoch, folder in enumerate(folders[:3]):
        assert other.reset_config(CONFIG)  # what an earlier trial of the worker has left plays no part
        other.load_checkpoint(str(folder))
        rest = [drop_times(other.train()) for _ in range(epoch + 1, 4)]
        assert rest == expected[epoch + 1 :]
    torch.set_num_threads(before)


@pytest.mark.usefixtures("here")
def test_a_configuration_may_be_plain_training_and_have_further_settings() -> None:
    kind = tune_swa.trainable(SPACE)
    plain = kind({**CONFIG, "swa_start": None, "seed": np.int64(5)})
    assert (plain._run.settings.swa_start, plain._run.settings.seed) == (None, 5)
    more = kind({**CONFIG, "train.weight_decay": 0.1})
    assert more._run.settings.train.weight_decay == 0.1


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"lr": 1e-2},
            "config: no swa_start, swa_lr, which the space searches. It has lr",
        ),
        ({**CONFIG, "swa_strat": 1}, "config: space.swa_strat: unknown parameter. Did you mean swa_start?"),
        ({**CONFIG, "swa_start": 3}, "config: space.swa_start: 3: expected a whole number from 0 to 2"),
        ({**CONFIG, "train.epochs": 9}, "config: space.train.epochs: cannot be searched"),
        ({**CONFIG, "seed": -1}, "config: seed: -1: expected a whole number of at least 0"),
    ],
)
def test_a_wrong_configuration_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(tune_swa.RequestError) as error:
        tune_swa.trainable(SPACE)(config)
    assert str(error.value).startswith(message)


@pytest.mark.usefixtures("here")
def test_a_loss_that_is_not_finite_is_the_trials_error() -> None:
    trial = tune_swa.trainable(SPACE)({**CONFIG, "lr": 1e30})
    with pytest.raises(NonFiniteError, match="in epoch 0"):
        trial.train()


def test_a_run_keeps_its_settings(here: Path) -> None:
    """Population-based training gives a trial the checkpoint of another one, and new settings."""
    kind = tune_swa.trainable(SPACE)
    donor = kind(dict(CONFIG))
    donor.train()
    donor.save_checkpoint(str(here))
    for change, words in (
        ({"lr": 3e-2}, r"lr was 0.01, is 0.03\)"),
        ({"swa_start": 0, "swa_lr": 1e-3}, r"swa_start was 1, is 0, swa_lr was 0.003, is 0.001\)"),
        ({"train.weight_decay": 0.5}, r"train.weight_decay was .*, is 0.5\)"),
        ({"seed": 3}, r"seed was 0, is 3\)"),
    ):
        with pytest.raises(tune_swa.RequestError, match=rf"with other settings \({words}.*ASHA or HyperBand"):
            kind({**CONFIG, **change}).load_checkpoint(str(here))


@pytest.mark.usefixtures("here")
def test_ray_does_not_take_one_space_for_another() -> None:
    """It knows trainables by their names alone, in all experiments of a program."""
    kinds = [tune_swa.trainable(SPACE, **{"train.weight_decay": decay}) for decay in (0.1, 0.2, 0.1)]
    experiments = [tune.Experiment(str(number), kind) for number, kind in enumerate(kinds)]
    found = [get_trainable_cls(experiment.run_identifier).plan.experiment for experiment in experiments]
    assert [experiment.train.weight_decay for experiment in found] == [0.1, 0.2, 0.1]
    assert kinds[0].__name__ == kinds[2].__name__  # another program restores it
    moved = tune_swa.trainable({**SPACE, "resources": {"cpus_per_trial": 2}}, **{"train.weight_decay": 0.1})
    assert moved.__name__ == kinds[0].__name__
    seeded = tune_swa.trainable(SPACE, **{"train.weight_decay": 0.1, "search.seed": 1})
    assert seeded.__name__ != kinds[0].__name__


@pytest.mark.usefixtures("here")
def test_weights_that_change_later_are_refused(tmp_path: Path) -> None:
    for seed in (0, 1):
        torch.save(build_model(10, seed).state_dict(), tmp_path / f"{seed}.pt")
    (tmp_path / "w.pt").symlink_to("0.pt")
    kind = tune_swa.trainable(SPACE, overrides={"model.weights": str(tmp_path / "w.pt")})
    kind(dict(CONFIG))
    (tmp_path / "w.pt").unlink()
    (tmp_path / "w.pt").symlink_to("1.pt")
    with pytest.raises(tune_swa.RequestError, match=r"w.pt on .* has other weights than where"):
        kind(dict(CONFIG))


TAKEN = "import tune_swa\ntune_swa.register_dataset('digits', dict)\n"
PLAIN = """
import torch, tune_swa
tune_swa.register_model("flat", lambda classes: torch.nn.Sequential(
    torch.nn.Flatten(), torch.nn.Linear(192, classes)))
"""


def test_what_is_wrong_is_known_before_any_trial(tmp_path: Path) -> None:
    (tmp_path / "taken.py").write_text(TAKEN)
    (tmp_path / "plain.py").write_text(PLAIN)
    with pytest.raises(tune_swa.RequestError, match="digits is a set that tune_swa has"):
        tune_swa.trainable(SPACE, plugin=tmp_path / "taken.py")
    frozen = {"model.arch": "flat", "train.freeze": "bn"}
    with pytest.raises(tune_swa.RequestError, match="bn would freeze nothing: flat has no batch norm"):
        tune_swa.trainable(SPACE, plugin=[tmp_path / "plain.py"], overrides=frozen)
    plugins.load_plugins([])
    with pytest.raises(tune_swa.RequestError, match="gone.pt: no such file"):
        tune_swa.trainable(SPACE, overrides={"model.weights": str(tmp_path / "gone.pt")})
    frozen = {"model.arch": "convnext_tiny", "data.image_size": 32, "train.freeze": "bn"}
    with pytest.raises(tune_swa.RequestError, match="convnext_tiny has no batch normalisation"):
        tune_swa.trainable(SPACE, overrides=frozen)
    with pytest.raises(tune_swa.RequestError, match="Did you mean data_dir"):
        tune_swa.trainable(SPACE, data_dirr=tmp_path)
    with pytest.raises(tune_swa.RequestError, match=r"--set train.batch_size=1: train.batch_size: 1: exp"):
        tune_swa.trainable(SPACE, **{"train.batch_size": 1})


@pytest.mark.usefixtures("decoded")
def test_a_trial_asks_for_the_resources_of_the_space() -> None:
    given = {"resources.gpus_per_trial": 0.25, "resources.cpus_per_trial": 3}
    bundle = tune_swa.trainable(SPACE, **given).default_resource_request({}).required_resources
    assert bundle == {"CPU": 3, "GPU": 0.25}
    assert tune_swa.trainable(SPACE).default_resource_request({}).required_resources == {"CPU": 1}


WIDE = {
    "lr": {"uniform": [0.1, 0.5], "step": 0.1},
    "swa_start": {"int": [1, 3]},
    "swa_lr": {"log_uniform": [1e-4, 1e-2]},
    "train.batch_size": {"int": [4, 12], "step": 4},
    "train.crop_padding": {"int": [3, 7], "step": 2},
    "averaging.anneal_epochs": {"int": [1, 4], "log": True},
    "train.weight_decay": {"uniform": [0.0, 0.5]},
    "train.augment": {"choice": [[], ["hflip", "crop"]]},
}


def test_the_space_in_rays_terms_has_the_same_bounds_for_every_sampler() -> None:
    space = {**SPACE, "train": {"epochs": 8, "batch_size": 20}, "space": WIDE}
    experiment, found = Experiment.model_validate(space), tune_swa.search_space(space)
    assert list(found) == list(WIDE)
    asked = OptunaSearch.convert_search_space(found)
    for parameter in experiment.parameters:
        drawn = {found[parameter.name].sample(random_state=seed) for seed in range(300)}
        assert all(value in parameter.domain for value in drawn)
        if parameter.domain.list_values() is not None:
            assert drawn == set(parameter.domain.list_values())
        if not isinstance(found[parameter.name], type(tune.choice([1]))):
            assert asked[parameter.name] == to_distribution(parameter)
    assert isinstance(found["train.batch_size"], type(tune.randint(1, 2)))  # ordered wherever Ray can


def test_a_grid_is_a_grid_search() -> None:
    grid = {"lr": {"choice": [0.1, 0.2]}, "swa_start": {"int": [0, 1]}, "swa_lr": 0.1}
    space = {**SPACE, "space": grid, "search": {"sampler": "grid"}}
    assert tune_swa.search_space(space) == {
        "lr": {"grid_search": [0.1, 0.2]},
        "swa_start": {"grid_search": [0, 1]},
    }


@pytest.fixture(scope="module")
def plain_ray() -> Iterator[None]:
    """A Ray as a user starts it."""
    environment = {name: narrow_environment()[name] for name in ("PYTHONPATH",)}
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, log_to_driver=False,
        runtime_env={"env_vars": {**environment, "TUNE_SWA_CACHE": os.environ["TUNE_SWA_CACHE"]}},
    )  # fmt: skip
    yield
    ray.shutdown()


class InterruptOnce(tune.Callback):  # type: ignore[misc]
    """Ctrl-C after the third epoch; `marker` is there once that was done."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **info: Any) -> None:
        if result["training_iteration"] == 3 and not self._marker.exists():
            self._marker.touch()
            signal.raise_signal(signal.SIGINT)


PLUGIN = """
import torch
import tune_swa

tune_swa.register_augmentation(
    "shift", lambda image, generator: image.roll(int(torch.randint(3, (), generator=generator)), 2)
)
"""


@pytest.mark.usefixtures("narrow_network", "decoded", "plain_ray")
def test_hyperband_pauses_trials_which_go_on_exactly_and_a_nan_is_the_trials_error(tmp_path: Path) -> None:
    (tmp_path / "shifting.py").write_text(PLUGIN)
    space = {**SPACE, "train": {**SPACE["train"], "augment": ["plugin/shift"]}}
    # two trials that run through, and four of which the best goes on after its first epoch
    tuner = tune.Tuner(
        tune_swa.trainable(space, plugin=tmp_path / "shifting.py"),
        param_space={**CONFIG, "lr": tune.grid_search([1e30, 1e-2, 3e-3, 1e-3, 3e-2, 5e-3])},
        tune_config=tune.TuneConfig(
            metric="accuracy", mode="max", reuse_actors=True,
            scheduler=HyperBandScheduler(max_t=4, reduction_factor=4),
        ),
        run_config=tune.RunConfig(name="paused", storage_path=str(tmp_path), verbose=0),
    )  # fmt: skip
    results = list(tuner.fit())
    assert "the training loss is nan in epoch 0" in str(
        next(r.error for r in results if r.config["lr"] == 1e30)
    )
    finished = [r for r in results if r.error is None]
    assert [r.metrics["training_iteration"] for r in finished].count(1) == 3
    whole = [r for r in finished if r.metrics["training_iteration"] == 4]
    assert {r.metrics["iterations_since_restore"] for r in whole} == {4, 3}  # one of them was paused
    for result in whole:
        assert drop_times(result.metrics) == run_epochs(result.config, space)[-1]
        assert drop_times(result.metrics) != run_epochs(result.config)[-1]


@pytest.mark.usefixtures("narrow_network", "decoded", "plain_ray")
def test_an_interrupted_tuner_is_restored_and_ends_alike(tmp_path: Path) -> None:
    kind = tune_swa.trainable(SPACE)
    tuner = tune.Tuner(
        kind,
        param_space=CONFIG,
        run_config=tune.RunConfig(
            name="again", storage_path=str(tmp_path), verbose=0,
            callbacks=[InterruptOnce(tmp_path / "interrupted")],
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    )  # fmt: skip
    (half,) = tuner.fit()
    assert half.metrics["training_iteration"] == 3
    (whole,) = tune.Tuner.restore(str(tmp_path / "again"), kind, resume_unfinished=True).fit()
    assert (
        whole.metrics["iterations_since_restore"] <= 2
    )  # the third epoch's checkpoint may have come too late
    assert whole.metrics["training_iteration"] == 4
    assert drop_times(whole.metrics) == run_epochs(CONFIG)[-1]


def test_the_example_runs(tmp_path: Path) -> None:
    # a Ray of its own, whatever else runs on this machine
    environment = {**narrow_environment(), "RAY_ADDRESS": "local"}
    found = run_program([ROOT / "docs" / "examples" / "plain_tuner.py", tmp_path], env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
    best = found.stdout.strip().splitlines()[-1]
    assert float(best.split()[1]) > 0.2  # chance is 0.1
    assert "after epoch 7 with {'lr': " in best
