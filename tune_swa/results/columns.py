"""Columns of the result files: name, type and meaning.

Every column is named here once; the tables are built from these lists, and a test holds
`results/README.md` against them. Importing this module costs nothing: the types are words, which
`tune_swa.results.tables` turns into arrow's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tune_swa.results.objective_meanings import (
    CHOSEN_AVERAGE,
    COMPARISON_BY_NLL,
    REPORTED_AVERAGE,
    TRIALS_BY_NLL,
)

if TYPE_CHECKING:
    from tune_swa.config import Metric, Parameter

ColumnType = Literal["string", "int64", "float64", "bool"]


@dataclass(frozen=True)
class Column:
    """One column of a result file."""

    name: str
    type: ColumnType
    """Arrow's alias of the type (`pyarrow.type_for_alias`)."""
    meaning: str
    """One sentence, with the unit. Written into the parquet schema too."""


CORE = (
    Column("lr", "float64", "Base learning rate."),
    Column("swa_start", "int64", "Epoch (from 0) after which averaging starts; null for a baseline."),
    Column(
        "swa_lr",
        "float64",
        "Constant rate that SWA anneals to, or the highest of its cycles; null for a baseline and for "
        "`averaging.tail: base`.",
    ),
)
"""Present whether the space searches them or fixes them, so that queries work for every experiment."""

_VALUE_TYPES: dict[str, ColumnType] = {"bool": "bool", "int": "int64", "float": "float64", "str": "string"}

_TRIALS_HEAD = (
    Column("trial", "string", "Name of the trial, stable across resumes."),
    Column("stage", "string", "`search`, `swap` (a member); on fresh seeds `race`, or tested `confirm`."),
    Column("kind", "string", "`baseline` (plain training) or `swa`."),
    Column("seed", "int64", "Training seed: initialisation, order and augmentation."),
)
_TRIALS_TAIL = (
    Column("status", "string", "`completed`, `pruned`, `failed`, `interrupted` or `running`."),
    Column("epochs", "int64", "Epochs reported so far, shared ones included."),
    Column("epochs_trained", "int64", "Of these, epochs this trial trained itself."),
    Column("epochs_shared", "int64", "Of these, epochs taken over from a trial with the same trunk."),
    Column(
        "accuracy",
        "float64",
        "Fraction of validation images right, 0 to 1, at the last reported epoch; the objective where "
        "status is `completed`.",
    ),
    Column("best_accuracy", "float64", "Highest `accuracy` over the epochs; information, chooses nothing."),
    Column("best_epoch", "int64", "First epoch (from 0) with that accuracy."),
    Column("nll", "float64", "Negative log-likelihood per validation image, nats, last epoch."),
    Column("ece", "float64", "Expected calibration error on the validation images, 0 to 1, last epoch."),
    Column("live_accuracy", "float64", "Like `accuracy`, of the live model instead of the average."),
    Column(
        "delta_vs_baseline",
        "float64",
        "`accuracy` minus that of the best completed baseline, same stage and seed; null unless completed.",
    ),
    Column(
        "delta_vs_same_lr",
        "float64",
        "`accuracy` minus that of the completed baseline with the same settings apart from SWA's, same stage "
        "and seed; null where there is none.",
    ),
    Column("seconds", "float64", "Spent on training, BN refresh and evaluation; shared epochs cost none."),
    Column("device", "string", "Where it ran last; null before it started."),
    Column("checkpoint", "string", "Newest checkpoint that exists, relative to the experiment's folder."),
    Column("error", "string", "Why it failed; null otherwise."),
)

EPOCHS = (
    Column("trial", "string", "Name of the trial."),
    Column("epoch", "int64", "Epoch, from 0. Every trial has all of its epochs, shared ones included."),
    Column("phase", "string", "`trunk` before the first average, `branch` from then on."),
    Column("learning_rate", "float64", "Rate the epoch was trained at."),
    Column("train_loss", "float64", "Mean loss over the training images while training, in nats."),
    Column(
        "accuracy",
        "float64",
        "Fraction of validation images right, 0 to 1, of the model to ship if training stopped here: the "
        "average with refreshed BN in a branch, the live model before.",
    ),
    Column("live_accuracy", "float64", "The same of the live model, the one that the optimizer changes."),
    Column("nll", "float64", "Negative log-likelihood per validation image, nats, of the same model."),
    Column("ece", "float64", "Expected calibration error on the validation images, 0 to 1, same model."),
    Column("n_averaged", "int64", "Models in the average; 0 in the trunk."),
    Column("train_seconds", "float64", "Wall time of training; null for a shared epoch."),
    Column(
        "bn_seconds", "float64", "Wall time of the BN refresh; null where the trial did none of the epoch."
    ),
    Column("eval_seconds", "float64", "Wall time of evaluation; null where the trial did none of the epoch."),
    Column("images_per_second", "float64", "Training images per second; null for a shared epoch."),
    Column(
        "shared_from",
        "string",
        "Trial that trained this epoch; null: the trial itself. Of a branch's first epoch only the average "
        "is its own.",
    ),
)
"""Columns of epochs.parquet: one row for each epoch of each trial."""

_COMPARISON_HEAD = (
    Column("rank", "int64", "1 is best: by accuracy, then nll, then trial; null unless completed."),
    Column("configuration", "string", "The configuration in words, such as `SWA_90_5e-5 lr=1e-4`."),
    Column("trial", "string", "The trial that the row is about; the best one of several."),
    Column("kind", "string", "`baseline` or `swa`."),
    Column("best_baseline", "bool", "True in one row: the baseline that the others are measured against."),
)
_COMPARISON_TAIL = (
    Column("status", "string", "As in trials.parquet."),
    Column("epochs", "int64", "Epochs reported so far."),
    Column("accuracy", "float64", "At the last reported epoch, 0 to 1; compare completed rows only."),
    Column("nll", "float64", "At the last reported epoch, in nats."),
    Column("baseline", "string", "Configuration of the best completed baseline; null without one."),
    Column("baseline_accuracy", "float64", "Its accuracy, 0 to 1."),
    Column("delta_vs_baseline", "float64", "`accuracy` minus `baseline_accuracy`; null unless completed."),
    Column(
        "delta_vs_same_lr",
        "float64",
        "`accuracy` minus that of the completed baseline with the same settings apart from SWA's; null where "
        "there is none.",
    ),
    Column("images", "int64", "Number of validation images behind every accuracy."),
    Column("race_seeds", "int64", "Fresh seeds of the race that it completed; 0: it did not take part."),
    Column("race_accuracy", "float64", "Mean validation accuracy over these, 0 to 1; null without any."),
    Column("seeds", "int64", "Fresh seeds the following columns rest on; 0: not tested."),
    Column("mean", "float64", "Mean test accuracy over fresh seeds; null: not tested."),
    Column(
        "sd", "float64", "Standard deviation of the test accuracy over fresh seeds; null: fewer than two."
    ),
    Column(
        "against",
        "string",
        "The best plain training that was found, which `delta` is to (of older journals, the best baseline "
        "of the search); null unless a finalist.",
    ),
    Column(
        "delta",
        "float64",
        "Mean difference in test accuracy to `against`, paired by seed; null where that is.",
    ),
    Column(
        "interval_low",
        "float64",
        "Lower end of the interval of `delta`, for new seeds and new images; null where `delta` is.",
    ),
    Column("interval_high", "float64", "Upper end of the interval of `delta`; null where `delta` is."),
    Column(
        "p_value",
        "float64",
        "Two-sided, of not being better than every plain configuration (where it is worse, of not being "
        "worse than `against`); of older journals, of `delta` being 0, by Holm's method. Null where it is.",
    ),
    Column(
        "verdict",
        "string",
        "`better`, `worse`, `not distinguishable`, `not tested` where a finalist before it is not better, "
        "`too few seeds`, or `unfinished` while runs of the look have not ended; null where `delta` is.",
    ),
)

_ONLY_BY_NLL = (
    Column("baseline_nll", "float64", "Nll of the best completed baseline, nats; null without one."),
    Column("race_nll", "float64", "Mean validation nll over the race's seeds, nats; null without any."),
)
"""Columns that comparison.parquet has only where nll is the objective."""


_CONFIRM_HEAD = (
    Column("trial", "string", "Name of the run: that of its configuration and its seed."),
    Column("configuration", "string", "The configuration in words."),
    Column("arm", "string", "Trial of the search that put the configuration forward; `-trunk`: without SWA."),
    Column("kind", "string", "`baseline` or `swa`."),
    Column(
        "roles",
        "string",
        "`finalist`, `baseline` (of the search or the race), `trunk` (a finalist's settings without SWA) and "
        "`member` (of a merge), joined by `+`.",
    ),
    Column("seed", "int64", "Training seed; every arm is run on the same ones."),
    Column("look", "int64", "Look at the test images that first asked for the seed, from 1."),
)
TEST_METRICS = (
    ("accuracy", "Fraction of test images right, 0 to 1"),
    ("nll", "Negative log-likelihood per test image, nats"),
    ("ece", "Expected calibration error on the test images, 0 to 1"),
    ("brier", "Brier score on the test images, 0 to 2"),
)
AT_TEMPERATURE = (
    ("temperature", "Temperature that was fitted on the validation images, 0.01 to 100"),
    ("nll_calibrated", "Negative log-likelihood per test image at that temperature, nats"),
    ("ece_calibrated", "Expected calibration error on the test images at that temperature, 0 to 1"),
    ("brier_calibrated", "Brier score on the test images at that temperature, 0 to 2"),
)
"""Null in runs of versions that fitted none, as all metrics are until a run is tested."""
MODEL_METRICS = tuple(name for name, _ in (*TEST_METRICS, *AT_TEMPERATURE))
"""Of each model of a tested run; columns of confirm.parquet after `test_` and `refreshed_`."""
_CONFIRM_TAIL = (
    Column("status", "string", "As in trials.parquet."),
    Column("images", "int64", "Number of test images; null until tested."),
    Column("val_accuracy", "float64", "Fraction of validation images right at the last epoch, 0 to 1."),
    *(Column(f"test_{name}", "float64", f"{meaning}; null until tested.") for name, meaning in TEST_METRICS),
    *(
        Column(f"test_{name}", "float64", f"{meaning}; null until tested, and in older runs.")
        for name, meaning in AT_TEMPERATURE
    ),
    *(
        Column(
            f"refreshed_{name}",
            "float64",
            f"{meaning}, of a baseline whose batch-normalisation statistics were refreshed as an average's "
            "are; null for SWA.",
        )
        for name, meaning in TEST_METRICS
    ),
    *(
        Column(
            f"refreshed_{name}",
            "float64",
            f"{meaning}, of a baseline with refreshed batch-normalisation statistics; null for SWA, and in "
            "older runs.",
        )
        for name, meaning in AT_TEMPERATURE
    ),
)

PREDICTIONS = (
    Column("trial", "string", "Name of the run on a fresh seed, or of a model merged of such runs."),
    Column(
        "model",
        "string",
        "`shipped`; `refreshed`: a baseline with refreshed batch-normalisation statistics; or an average "
        "that `averages` of the space file lists.",
    ),
    Column("image", "int64", "Number of the test image, from 0, the same for all runs."),
    Column("label", "int64", "Its class, by number."),
    Column("predicted", "int64", "Class that the model gives it."),
    Column("probability", "float64", "Probability of its class, 0 to 1."),
    Column("confidence", "float64", "Probability of the predicted class, 0 to 1."),
    Column("nll", "float64", "Negative log-likelihood of its class, nats."),
    Column("brier", "float64", "Squared distance of the probabilities from the truth, 0 to 2."),
    *(
        Column(
            f"{name}_calibrated",
            "float64",
            f"`{name}` at the temperature that was fitted on the validation images; null in older runs.",
        )
        for name in ("confidence", "nll", "brier")
    ),
)
"""Columns of predictions.parquet: one row for each image and model of each run on a fresh seed."""


AVERAGES = (
    Column("trial", "string", "Name of the trial."),
    Column("epoch", "int64", "Epoch (from 0) after which the average was scored."),
    Column("part", "string", "Images: `val`, or `test` for a run on a fresh seed that is tested."),
    Column(
        "average",
        "string",
        "Method, with the settings that tell it from others of its kind. `swad` chooses its window on the "
        "validation images: its `val` scores are optimistic.",
    ),
    Column("members", "int64", "Sets of weights whose probabilities were averaged."),
    Column("accuracy", "float64", "Fraction of these images right, 0 to 1."),
    Column("nll", "float64", "Negative log-likelihood per image, nats."),
    Column("ece", "float64", "Expected calibration error, 0 to 1."),
    Column("brier", "float64", "Brier score, 0 to 2; null for `val`."),
    *(
        Column(name, "float64", f"{meaning}; null for `val`, and in older runs.")
        for name, meaning in AT_TEMPERATURE
    ),
    Column("seconds", "float64", "Wall time of weights, BN refresh and evaluation; null for `test`."),
)
"""Columns of averages.parquet: one row for each average of each trial, where it was scored."""


ENSEMBLES = (
    Column("configuration", "string", "The configuration in words."),
    Column("arm", "string", "Arm whose runs are in it, as in confirm.parquet."),
    Column(
        "method",
        "string",
        "`deep ensemble` of plain training, `deep ensemble (BN refresh alone)`, `MultiSWA`, `MultiSWAG "
        "(...)`, or `ensemble of` another average.",
    ),
    Column("group", "int64", "Number of the group of seeds, from 0; groups have no seed in common."),
    Column("seeds", "string", "Seeds of its runs, joined by `+`."),
    Column("runs", "int64", "Number of runs whose probabilities are averaged."),
    Column("accuracy", "float64", "Fraction of test images right, 0 to 1."),
    Column("nll", "float64", "Negative log-likelihood per test image, nats."),
    Column("ece", "float64", "Expected calibration error on the test images, 0 to 1."),
    Column("brier", "float64", "Brier score on the test images, 0 to 2."),
)
"""Columns of ensembles.parquet: one row for each ensemble of runs on fresh seeds."""


CHOSEN = Column("average", "string", CHOSEN_AVERAGE)
"""Last column of trials, comparison and confirm.parquet where the objective is of the best average."""
REPORTED = Column("average", "string", REPORTED_AVERAGE)
"""The same of epochs.parquet."""


def epochs_columns(*, chooses: bool = False) -> tuple[Column, ...]:
    """Columns of epochs.parquet.

    Args:
        chooses: whether the objective is of the best average.
    """
    return (*EPOCHS, REPORTED) if chooses else EPOCHS


def confirm_columns(parameters: Iterable[Parameter], *, chooses: bool = False) -> tuple[Column, ...]:
    """Columns of confirm.parquet: one row for each tested run on a fresh seed."""
    columns = (*_CONFIRM_HEAD, *parameter_columns(parameters), *_CONFIRM_TAIL)
    return (*columns, CHOSEN) if chooses else columns


def parameter_columns(parameters: Iterable[Parameter]) -> tuple[Column, ...]:
    """Columns of a configuration: `lr`, `swa_start` and `swa_lr` always, then what else is searched.

    A column has the name that the space file gives the parameter (`train.weight_decay`; quote it in
    SQL) and the type of its values. Lists become strings joined by `+`, the empty one `none`.
    """
    core = {column.name for column in CORE}
    searched = (
        Column(p.name, _VALUE_TYPES[p.value_type], f"{p.name} of the space file; null: not set.")
        for p in parameters
        if p.name not in core
    )
    return (*CORE, *searched)


def trials_columns(
    parameters: Iterable[Parameter], metric: Metric = "accuracy", *, chooses: bool = False
) -> tuple[Column, ...]:
    """Columns of trials.parquet: one row for each trial.

    Args:
        parameters: what is searched.
        metric: of the objective.
        chooses: whether the objective is of the best average.
    """
    columns = (*_TRIALS_HEAD, *parameter_columns(parameters), *_TRIALS_TAIL)
    if metric == "nll":
        columns = _replace_meanings(columns, TRIALS_BY_NLL)
    return (*columns, CHOSEN) if chooses else columns


def comparison_columns(
    parameters: Iterable[Parameter], metric: Metric = "accuracy", *, chooses: bool = False
) -> tuple[Column, ...]:
    """Columns of comparison.parquet: one row for each configuration. Arguments as of `trials_columns`."""
    columns = (*_COMPARISON_HEAD, *parameter_columns(parameters), *_COMPARISON_TAIL)
    if metric == "nll":
        columns = (*_replace_meanings(columns, COMPARISON_BY_NLL), *_ONLY_BY_NLL)
    return (*columns, CHOSEN) if chooses else columns


def _replace_meanings(columns: Iterable[Column], meanings: Mapping[str, str]) -> tuple[Column, ...]:
    return tuple(Column(c.name, c.type, meanings.get(c.name, c.meaning)) for c in columns)
