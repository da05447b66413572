"""Merge the averages of finished runs, and evaluate each mean on the validation images."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from tune_swa.averaging.observers import Member
from tune_swa.averaging.soup import Soup, Weights, average_models, cook_soup
from tune_swa.config import Metric
from tune_swa.training.metrics import (
    Evaluation,
    Predictions,
    compute_logits,
    evaluate_logits,
    evaluate_model,
)
from tune_swa.training.run import Run
from tune_swa.training.scoring import MemberEvaluator
from tune_swa.training.temperature import predict_calibrated

StateDict = Mapping[str, Tensor]


def merge_runs(
    run: Run, ingredients: Iterator[StateDict], first: Evaluation, metric: Metric, *, greedy: bool
) -> tuple[Soup[Evaluation], dict[str, Tensor]]:
    """Merge the models of finished runs of one trunk.

    Batch-normalisation statistics are recomputed for each mean, over the batches of the last epoch of the
    first one's run, as SWA's own are.

    Args:
        run: of the first one's settings, not begun; its images and numerics are used.
        ingredients: weights to ship of each run, the best one first.
        first: recorded evaluation of the first one.
        metric: which of two means is better by; used where greedy.
        greedy: whether a model stays only if the mean with it is strictly better.

    Returns:
        The soup, and the state_dict of its model on the CPU with refreshed statistics.

    Raises:
        NonFiniteError: an output of a mean is NaN or infinite.
    """
    scorer = _build_scorer(run)

    def evaluate(weights: Weights) -> Evaluation:
        model = scorer.load_refreshed(Member(weights))
        return evaluate_model(model, run.images.read_validation(), run.numerics.autocast())

    def is_better(new: Evaluation, old: Evaluation) -> bool:
        better = operator.lt if metric == "nll" else operator.gt
        return bool(better(getattr(new, metric), getattr(old, metric)))

    models = _select_parameters(run, ingredients)
    soup = cook_soup(models, first, evaluate, is_better if greedy else None)
    model = scorer.load_refreshed(Member(soup.weights))
    return soup, {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}


def evaluate_recipe(run: Run, ingredients: Iterator[StateDict]) -> tuple[Evaluation, Predictions]:
    """Average the models of finished runs of one trunk at equal parts, without a choice, and test the result.

    Statistics are recomputed as in `merge_runs`. One SWA model alone gives itself.

    Args:
        run: of the first one's settings, not begun; its images and numerics are used.
        ingredients: weights to ship of each run, in the order in which they are merged.

    Returns:
        What the model reaches on the validation images, and its predictions of the test images, also at the
        temperature that is fitted on the validation images.

    Raises:
        NonFiniteError: an output is NaN or infinite.
    """
    weights = average_models(_select_parameters(run, ingredients))
    model = _build_scorer(run).load_refreshed(Member(weights))
    outputs, labels = compute_logits(model, run.images.read_held_out(), run.numerics.autocast())
    validation = len(run.images.val)
    evaluation = evaluate_logits(outputs[:validation], labels[:validation])
    return evaluation, predict_calibrated(outputs, labels, validation)


def _build_scorer(run: Run) -> MemberEvaluator:
    """Evaluate means as the run's averages are after its last epoch."""
    last = run.settings.train.epochs - 1

    def refresh(model: nn.Module) -> None:
        run.refresh_model(model, last)

    return MemberEvaluator(run.model, refresh, run.numerics.autocast)


def _select_parameters(run: Run, ingredients: Iterator[StateDict]) -> Iterator[Sequence[Tensor]]:
    """Put the parameters of each model on the run's device, one model at a time."""
    names = [name for name, _ in run.model.named_parameters()]
    for state in ingredients:
        yield [state[name].to(run.device) for name in names]
