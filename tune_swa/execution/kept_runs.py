"""Load what a finished run predicts with from the weights that are kept of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from tune_swa.averaging.posterior import Posterior
from tune_swa.config import Experiment, RunSettings
from tune_swa.data.batches import ImageBatches
from tune_swa.data.dataset import Dataset
from tune_swa.errors import RequestError
from tune_swa.execution.best_model import read_state
from tune_swa.execution.snapshot_bank import fetch_snapshots
from tune_swa.experiment.events import ExperimentCreated
from tune_swa.experiment.trial_state import TrialState
from tune_swa.storage import Store
from tune_swa.training.checkpoint import CheckpointError, extract_shipped_weights
from tune_swa.training.export_numerics import choose_numerics, resolve_on_cpu
from tune_swa.training.metrics import compute_logits
from tune_swa.training.model_export import use_threads
from tune_swa.training.numerics import Numerics
from tune_swa.training.observed_averages import DRAWING
from tune_swa.training.run import Run
from tune_swa.training.temperature import fit_temperature

_Result = TypeVar("_Result")

SHIPPED = "shipped"
REFRESHED = "refreshed"


@dataclass(frozen=True)
class RunMembers:
    """What one average of a run predicts with."""

    weights: list[dict[str, Tensor]]
    """A state_dict on the CPU for each member, with statistics that fit."""
    posterior: Posterior | None = None
    """What they were drawn from; None: they were not drawn."""


@dataclass(frozen=True)
class KeptRuns:
    """The runs of an experiment whose weights are kept, and what it takes to compute with them."""

    experiment: Experiment
    header: ExperimentCreated
    store: Store
    data: Dataset | None
    """The images of the search."""
    why_none: str
    """Why they are not at hand."""

    def restore_settings(self, trial: TrialState) -> RunSettings:
        """The settings that a trial was trained with."""
        given = trial.kind, trial.params, trial.seed, trial.average, trial.member
        return self.experiment.run_settings(*given)

    def load_members(self, trial: TrialState, variant: str) -> RunMembers:
        """Load the members of one average of a completed run, as they were scored.

        Args:
            trial: whose last checkpoint is kept.
            variant: `shipped`, `refreshed` (a baseline's, with statistics recomputed), or an average's label.

        Raises:
            RequestError: the checkpoint or a file that it names cannot be used, or the images that statistics
                are computed on are not at hand.
        """
        settings = self.restore_settings(trial)
        name = trial.checkpoints[-1]
        try:
            state = read_state(self.store, name)
            if variant == SHIPPED or _is_shipped(settings, state, variant):
                return RunMembers([extract_shipped_weights(state)])
            state = fetch_snapshots(state, self.store, name, keep_damaged=True)
        except (CheckpointError, OSError) as error:
            raise RequestError(
                f"the weights of {trial.name} in {self.store.where} cannot be used ({error}). Restore that "
                "file from a copy, or export another run"
            ) from None
        if self.data is None:
            raise RequestError(
                f"the batch-normalisation statistics of {trial.name}'s members are computed on its training "
                f"images, which are not at hand: {self.why_none}. Name their folder with --data-dir"
            )
        computing = _Computing(settings, self.data, state, variant, tested=trial.tested is not None)
        return self._compute_as_recorded(settings, computing.load_members)

    def fit_temperature(self, model: nn.Module, settings: RunSettings) -> float | None:
        """Fit a model's temperature on the validation images; None: they are not at hand.

        Args:
            model: in eval mode, on the CPU; it is copied.
            settings: of the runs that it comes from.
        """
        data = self.data
        if data is None:
            return None

        def fit(numerics: Numerics) -> float:
            with use_threads(numerics.threads):
                numerics.set_backends()
                there = copy.deepcopy(model).to(numerics.device).to(memory_format=numerics.memory_format)
                images = ImageBatches(data, data.val, numerics.device, channels_last=numerics.channels_last)
                batches = images.iterate_ordered(settings.train.eval_batch_size)
                outputs, labels = compute_logits(there, batches, numerics.autocast())
                return fit_temperature(outputs.cpu(), labels.cpu())

        return self._compute_as_recorded(settings, fit)

    def _compute_as_recorded(self, settings: RunSettings, compute: Callable[[Numerics], _Result]) -> _Result:
        """Compute with the numerics of the search where this machine has them, else with its CPU's."""
        size = self.experiment.data.image_size
        numerics, _ = choose_numerics(self.header.numerics, settings.train, size)
        try:
            return compute(numerics)
        except RuntimeError:  # a GPU without free memory, or that fails
            if numerics.device == "cpu":
                raise
        return compute(resolve_on_cpu(self.header.numerics, settings.train, size))


@dataclass(frozen=True)
class _Computing:
    """A finished run whose members' statistics are computed again."""

    settings: RunSettings
    data: Dataset
    state: dict[str, Any]
    variant: str
    tested: bool
    """Whether it drew as often as for the test images."""

    def load_members(self, numerics: Numerics) -> RunMembers:
        with use_threads(numerics.threads):
            run = Run(self.settings, self.data, numerics, all_draws=self.tested)
            run.load_state_dict(self.state)
            if self.variant == REFRESHED:
                return RunMembers([_copy_weights(_refresh_copy(run))])
            assert run.averages is not None
            models = run.averages.load_members(self.variant, run.averaging)
            weights = [_copy_weights(model) for model in models]
            return RunMembers(weights, run.averages.describe_posterior(self.variant))


def _refresh_copy(run: Run) -> nn.Module:
    """A copy of a finished baseline's model with statistics recomputed, as it was tested."""
    model: nn.Module = copy.deepcopy(run.model)
    run.refresh_model(model, run.epoch)
    return model


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    # in one memory format whatever the run's was, and apart from the model, which gets other weights
    return {
        name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in model.state_dict().items()
    }


def _is_shipped(settings: RunSettings, state: dict[str, Any], label: str) -> bool:
    """Whether an average's weights are those that the run ships, so that they have their statistics."""
    chosen = (state.get("averages") or {}).get("chosen")
    if chosen is not None:
        return bool(chosen == label)
    leader = settings.leader
    return leader is not None and leader.label == label and leader.method not in DRAWING
