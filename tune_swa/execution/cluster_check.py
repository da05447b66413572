"""Before trials are sent to the nodes of a cluster, check that all of them see the same things.

A trial that lands on a node without the images, or with another torch, would fail or give other
numbers, and there is no telling which trial lands where. So each node is asked first. It decodes
the images into its own cache by that, once, whatever number of trials it will run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tune_swa.config import Experiment
from tune_swa.data.dataset import prepare_dataset
from tune_swa.errors import RequestError, SearchFailed
from tune_swa.execution.gpu_share import check_memory
from tune_swa.execution.slots import Node, Placement
from tune_swa.hardware.gpu_survey import explain_missing_gpus, survey_gpus
from tune_swa.hardware.torch_probe import Gpu, GpuSurvey
from tune_swa.plugin_files import PluginSource
from tune_swa.plugins import install_plugins
from tune_swa.storage import Store
from tune_swa.training.numerics import Numerics, decide_numerics
from tune_swa.training.trial_cost import TrialCost, Workload


@dataclass(frozen=True)
class Question:
    """The question to each node."""

    experiment: Experiment
    data_dir: Path | None
    device: str
    threads: int
    store: Store
    probe: str
    """A file in the store that the driver has written."""
    gpus: tuple[Gpu, ...] | None = None
    """GPUs of all nodes, whose precision is that of all; None: the search runs on the CPU."""
    plugins: tuple[PluginSource, ...] = ()


@dataclass(frozen=True)
class Answer:
    """A node's answer."""

    torch: str = ""
    numerics: Numerics | None = None
    fingerprint: str = ""
    """Fingerprint of its images and their division."""
    sees_probe: bool = True
    wrong: str | None = None
    """Why it cannot take part."""


def ask(question: Question) -> Answer:
    """Look at the node that this runs on."""
    import torch

    try:
        install_plugins(question.plugins)
        experiment = question.experiment
        numerics = decide_numerics(
            experiment.train,
            experiment.data.image_size,
            device=question.device,
            threads=question.threads,
            gpus=question.gpus,
        )
        data = prepare_dataset(experiment.data, question.data_dir)
    except RequestError as error:
        return Answer(wrong=str(error))
    try:
        sees_probe = question.probe in question.store.names("")
    except OSError:
        sees_probe = False
    return Answer(torch.__version__, numerics, data.fingerprint, sees_probe)


PATIENCE_SECONDS = 15.0
"""Seconds until the nodes that have not answered are named; twice as long until the next time, and so on."""


def ask_all(
    nodes: Iterable[Node], placement: Placement, question: Question, say: Callable[[str], object]
) -> dict[str, Answer]:
    """Ask every node that a trial fits on, side by side.

    Args:
        nodes: the nodes.
        placement: what a trial takes; a question takes as much.
        question: what is asked.
        say: takes a line on who has not answered, which Ray itself would wait for in silence.

    Returns:
        The answers, by the node's name.
    """
    fits = [n for n in nodes if n.cpus >= placement.cpus_per_trial and (n.gpus or not placement.gpus)]
    answers: dict[str, Answer] = {}
    found = _call_on(fits, placement.cpus_per_trial, placement.gpus_per_trial, say, ask, question)
    for node, answer in found:
        name = f"{node.name} ({node.ray_id[:6]})" if node.name in answers else node.name
        answers[name] = Answer(wrong=answer) if isinstance(answer, str) else answer
    return answers


def survey_nodes(nodes: Iterable[Node], say: Callable[[str], object]) -> dict[Node, GpuSurvey]:
    """Look at one GPU of every node that has some, side by side. Which one is Ray's choice.

    Raises:
        RequestError: CUDA or torch cannot use one of them; each is named.
    """
    surveys: dict[Node, GpuSurvey] = {}
    wrong = []
    for node, survey in _call_on([n for n in nodes if n.gpus], 0, 1, say, survey_gpus):
        if isinstance(survey, str):
            wrong.append(f"{node.name}: {survey}")
        elif missing := explain_missing_gpus(survey):
            wrong.append(f"{node.name}: {'. '.join(missing)}")
        elif not survey.gpus:
            wrong.append(f"{node.name}: Ray counts {node.gpus} GPUs there, and CUDA finds none")
        elif survey.gpus[0].error is not None:
            gpu = survey.gpus[0]
            wrong.append(f"{node.name}: torch cannot train on {gpu.name} ({gpu.error})")
        else:
            surveys[node] = survey
    if wrong:
        raise RequestError(
            "not every GPU of the cluster can be used (--gpus 0 runs on the CPU):\n  " + "\n  ".join(wrong)
        )
    return surveys


def measure_on_nodes(
    surveys: dict[Node, GpuSurvey], workload: Workload, say: Callable[[str], object]
) -> TrialCost:
    """Try a trial out on one node of each kind of GPU.

    Returns:
        The cost of the kind with the least memory, which decides.

    Raises:
        RequestError: a trial does not fit one of them.
        SearchFailed: it fails for another reason.
    """
    from tune_swa.training.step_probe import measure_trial

    kinds = {(survey.gpus[0].name, survey.gpus[0].memory): node for node, survey in surveys.items()}
    costs = []
    for node, found in _call_on(kinds.values(), 0, 1, say, measure_trial, workload.as_dict()):
        if isinstance(found, str):
            raise SearchFailed(f"a trial was tried out on {node.name} before the search, and failed: {found}")
        costs.append(check_memory(TrialCost(**found), workload))
    return min(costs, key=lambda cost: cost.memory)


def _call_on(
    nodes: Iterable[Node],
    cpus: float,
    gpus: float,
    say: Callable[[str], object],
    function: Callable[..., Any],
    *arguments: Any,
) -> list[tuple[Node, Any]]:
    """Call a function on nodes, side by side, with so much of each.

    Returns:
        What each returned, or as text why it did not.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pending = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node_id=node.ray_id, soft=False)
        remote = ray.remote(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=here)(function)
        pending[node] = remote.remote(*arguments)
    patience = PATIENCE_SECONDS
    while late := _late(pending, patience):
        say(
            f"waiting for an answer of {', '.join(node.name for node in late)}: all places there are taken, "
            "by another search perhaps, or the images are being decoded. Ctrl-C gives up"
        )
        patience *= 2
    results: list[tuple[Node, Any]] = []
    for node, reference in pending.items():
        try:
            results.append((node, ray.get(reference)))
        except (ray.exceptions.RayError, ImportError) as error:
            results.append((node, _why(error)))
    return results


def _late(pending: dict[Node, Any], patience: float) -> list[Node]:
    """Return the nodes that have not answered after this many seconds."""
    import ray

    if not pending:
        return []
    _, open_ = ray.wait(list(pending.values()), num_returns=len(pending), timeout=patience)
    return [node for node, reference in pending.items() if reference in open_]


def agree(answers: dict[str, Answer], fingerprint: str, store: Store) -> Numerics:
    """The numerics that all nodes have in common.

    Args:
        answers: by the node's name.
        fingerprint: of the images, as the driver has them.
        store: where the checkpoints are to be.

    Raises:
        RequestError: a node cannot take part, or they differ; each is named.
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
                "URI that all nodes share"
            )
    if wrong:
        raise RequestError("not every node of the cluster can take part:\n  " + "\n  ".join(wrong))
    kinds: dict[tuple[Any, ...], list[str]] = {}
    for name, answer in answers.items():
        assert answer.numerics is not None
        facts = {**answer.numerics.as_dict(), "torch": answer.torch}
        kinds.setdefault(tuple(facts.items()), []).append(name)
    if len(kinds) > 1:
        described = [f"{', '.join(names)}: {dict(facts)}" for facts, names in kinds.items()]
        raise RequestError(
            "the nodes of the cluster compute with different numerics, so their trials could not be "
            "compared. Use the same kind of nodes and versions, or fix train.precision:\n  "
            + "\n  ".join(described)
        )
    numerics = next(iter(answers.values())).numerics
    assert numerics is not None
    return numerics


def _why(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).strip().splitlines() if line.strip()]
    return f"cannot run a trial ({lines[-1].strip()[:300] if lines else type(cause).__name__})"
