"""Before trials are sent to the computers of a cluster: does each see the same things as the others?

A trial that lands on a computer without the images, or with another torch, would fail or give other
numbers, and there is no telling which trial lands where. So each computer is asked first. It decodes
the images into its own cache by that, once, whatever number of trials it will run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tune_swa.data.dataset import prepare
from tune_swa.errors import RequestError
from tune_swa.search.placement import Node, Placement
from tune_swa.spec import Experiment
from tune_swa.storage import Store
from tune_swa.training.numerics import Numerics, resolve


@dataclass(frozen=True)
class Question:
    """What each computer is asked."""

    experiment: Experiment
    data_dir: Path | None
    device: str
    threads: int
    store: Store
    probe: str
    """A file in the store that the driver has written."""


@dataclass(frozen=True)
class Answer:
    """What a computer found."""

    torch: str = ""
    numerics: Numerics | None = None
    fingerprint: str = ""
    """Of its images and their division."""
    sees_probe: bool = True
    wrong: str | None = None
    """Why it cannot take part."""


def ask(question: Question) -> Answer:
    """Look at the computer that this runs on."""
    try:
        experiment = question.experiment
        numerics = resolve(
            experiment.train, experiment.data.image_size, device=question.device, threads=question.threads
        )
        data = prepare(experiment.data, question.data_dir)
    except RequestError as error:
        return Answer(wrong=str(error))
    try:
        sees_probe = question.probe in question.store.names("")
    except OSError:
        sees_probe = False
    return Answer(torch.__version__, numerics, data.fingerprint, sees_probe)


PATIENCE_SECONDS = 15.0
"""Before it is said who has not answered; twice as long before it is said again, and so on."""


def ask_all(
    nodes: Iterable[Node], placement: Placement, question: Question, say: Callable[[str], object]
) -> dict[str, Answer]:
    """Ask every computer that a trial fits on, side by side.

    Args:
        nodes: the computers.
        placement: what a trial takes; a question takes as much.
        question: what is asked.
        say: takes a line on who has not answered, which Ray itself would wait for in silence.

    Returns:
        The answers, by the computer's name.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pending = {}
    for node in nodes:
        if node.cpus < placement.cpus_per_trial or (placement.gpus and not node.gpus):
            continue
        here = NodeAffinitySchedulingStrategy(node_id=node.ray_id, soft=False)
        remote = ray.remote(
            num_cpus=placement.cpus_per_trial, num_gpus=placement.gpus_per_trial, scheduling_strategy=here
        )(ask)
        pending[node] = remote.remote(question)
    patience = PATIENCE_SECONDS
    while late := _late(pending, patience):
        say(
            f"waiting for an answer of {', '.join(node.name for node in late)}: all places there are taken, "
            "by another search perhaps, or the images are being decoded. Ctrl-C gives up"
        )
        patience *= 2
    answers: dict[str, Answer] = {}
    for node, reference in pending.items():
        name = f"{node.name} ({node.ray_id[:6]})" if node.name in answers else node.name
        try:
            answers[name] = ray.get(reference)
        except (ray.exceptions.RayError, ImportError) as error:
            answers[name] = Answer(wrong=_why(error))
    return answers


def _late(pending: dict[Node, Any], patience: float) -> list[Node]:
    """Those who have not answered after so many seconds."""
    import ray

    if not pending:
        return []
    _, open_ = ray.wait(list(pending.values()), num_returns=len(pending), timeout=patience)
    return [node for node, reference in pending.items() if reference in open_]


def agree(answers: dict[str, Answer], fingerprint: str, store: Store) -> Numerics:
    """The numerics that all computers have in common.

    Args:
        answers: by the computer's name.
        fingerprint: of the images, as the driver has them.
        store: where the checkpoints are to be.

    Raises:
        RequestError: a computer cannot take part, or they differ; each is named.
    """
    wrong = []
    for name, answer in answers.items():
        if answer.wrong is not None:
            wrong.append(f"{name}: {answer.wrong}")
        elif answer.fingerprint != fingerprint:
            wrong.append(f"{name}: its images are not those of this machine (their fingerprint differs)")
        elif not answer.sees_probe:
            wrong.append(
                f"{name}: does not see {store.where}, where the checkpoints go. Give --storage a folder or a "
                "URI that all computers share"
            )
    if wrong:
        raise RequestError("not every computer of the cluster can take part:\n  " + "\n  ".join(wrong))
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, answer in answers.items():
        assert answer.numerics is not None
        facts = {**answer.numerics.as_dict(), "torch": answer.torch}
        kinds.setdefault(tuple(facts.items()), []).append(name)
    if len(kinds) > 1:
        described = [f"{', '.join(names)}: {dict(facts)}" for facts, names in kinds.items()]
        raise RequestError(
            "the computers of the cluster compute with different numerics, so their trials could not be "
            "compared. Use the same kind of computers and versions, or fix train.precision:\n  "
            + "\n  ".join(described)
        )
    numerics = next(iter(answers.values())).numerics
    assert numerics is not None
    return numerics


def _why(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"cannot run a trial ({lines[-1].strip()[:300] if lines else type(cause).__name__})"
