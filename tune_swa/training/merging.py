"""Merge the averages of finished runs, and evaluate each mean on the validation images."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from tune_swa.averaging.observers import Member
from tune_swa.averaging.soup import Soup, Weights, cook_soup
from tune_swa.averaging.swa import refresh_bn
from tune_swa.config import Metric
from tune_swa.training.metrics import Evaluation, evaluate_model
from tune_swa.training.run import Run
from tune_swa.training.scoring import MemberEvaluator

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
    last = run.settings.train.epochs - 1

    def refresh(model: nn.Module) -> None:
        with run.numerics.autocast():
            refresh_bn(model, (images for images, _ in run.images.draw_batches("bn", last)))

    scorer = MemberEvaluator(run.model, refresh, run.numerics.autocast)

    def evaluate(weights: Weights) -> Evaluation:
        model = scorer.load_refreshed(Member(weights))
        return evaluate_model(model, run.images.read_validation(), run.numerics.autocast())

    def is_better(new: Evaluation, old: Evaluation) -> bool:
        better = operator.lt if metric == "nll" else operator.gt
        return bool(better(getattr(new, metric), getattr(old, metric)))

    names = [name for name, _ in run.model.named_parameters()]
    models: Iterator[Sequence[Tensor]] = (
        [state[name].to(run.device) for name in names] for state in ingredients
    )
    soup = cook_soup(models, first, evaluate, is_better if greedy else None)
    model = scorer.load_refreshed(Member(soup.weights))
    return soup, {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
