"""Check a request before images are decoded and Ray is started, alike for a search and for its plan."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tune_swa.execution import ray_runtime
from tune_swa.execution.plugin_checks import check_augmentations, check_same_plugins
from tune_swa.execution.request import Request, print_note, show_status
from tune_swa.execution.site import place_trials, resolve_numerics
from tune_swa.execution.slots import Machine
from tune_swa.experiment.events import Event
from tune_swa.experiment.folder import (
    check_storage,
    choose_storage,
    describe_reuse,
    keep_suffixes,
    load_earlier_events,
    recall_order,
    recall_reuse,
)
from tune_swa.experiment.state import ExperimentState
from tune_swa.training.network_checks import check_frozen, check_network


@dataclass(frozen=True)
class CheckedRequest:
    """A request that can be carried out, as far as is known without decoding images."""

    request: Request
    """With the storage and the image files that its search began with."""
    events: list[Event]
    """Of the earlier sessions."""
    state: ExperimentState
    """What these events fold into."""
    machine: Machine | None
    """This machine; None: the trials run on a cluster."""


def check_request(request: Request) -> CheckedRequest:
    """Check the experiment's folder, the resources and the storage. To be called with the folder's lock held.

    Raises:
        NameTakenError: there is a search of this name, which is not to be resumed.
        RequestError: the search cannot be resumed, or an augmentation, resources, cluster or storage are not
            there.
    """
    check_augmentations(request.experiment)
    events, state = load_earlier_events(request.folder, request.experiment, resume=request.resume)
    check_same_plugins(state.header)
    print_note(request, describe_reuse(request.experiment, state.header))
    experiment = recall_reuse(request.experiment, state.header)
    request = replace(
        request,
        experiment=keep_suffixes(recall_order(experiment, state.header), state.header),
        storage=choose_storage(state, request.storage, request.folder),
    )
    return CheckedRequest(request, events, state, check_resources(request, state))


def check_resources(request: Request, state: ExperimentState) -> Machine | None:
    """Check that the network takes the images, trials can be placed, and checkpoints can be written.

    Returns:
        This machine; None: the trials run on a cluster.

    Raises:
        RequestError: the network, the resources, the cluster or the storage are not there.
    """
    check_network(request.experiment.model, request.experiment.data.image_size)
    check_frozen(request.experiment)
    machine = None
    if request.address is None:
        with show_status(request, "looking at the GPUs"):  # a driver that hangs takes two minutes
            machine = ray_runtime.inspect_machine(request.gpus)
        resolve_numerics(request, place_trials(request, state, machine), machine)
    else:
        ray_runtime.check_reachable(request.address)
    if request.storage is not None:
        check_storage(request.store, request.folder, begun=state.header is not None)
    return machine
