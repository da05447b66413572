"""Search the hyperparameters of stochastic weight averaging, and test the gain on fresh seeds.

Glossary, used with these meanings in the whole package:

- configuration: values of `lr`, `swa_start`, `swa_lr` and whatever else is searched.
- trial: one training run of one configuration with one seed.
- trunk: the epochs of a trial before averaging. Trials whose trunks are equal train them once.
- branch: the epochs of a trial from the first average on.
- fork: where a branch leaves its trunk: after training epoch `fork_epoch = swa_start + 1`.
- tail: how the learning rate goes on after the fork: constant, in cycles, or on the base schedule.
- live model: the model that the optimizer updates.
- average: the `AveragedModel` over the live model after each epoch of the branch, or at the ends of cycles.
- baseline: plain training, a trunk that runs to the last epoch.
- rung: an epoch after which early stopping compares trials of the same phase.
- member: of SWAP, one of several branches that differ in the order of images after the fork alone.
- arm: a configuration, with its average where one was chosen, that is trained on fresh seeds; a plain arm has
  no averaging.
- look: an evaluation of all arms on the test images after a planned number of seeds.
- phase: of an epoch, trunk or branch.
- stage: of a trial, search, swap, race or confirm. Swap trains further members; a race chooses among the
  search's best configurations (the finalists) on fresh seeds and validation images; confirm tests them on
  the test images.
- shipped model: the model one would use: the average once there is one, else the live model.
- published state: a trunk's state after some epoch, kept for the branches that begin there.
- snapshot: weights at the end of an epoch, kept beside a trial's checkpoints for averages of past models.
- fold: to compute the state of an experiment from the events of its journal.

The way of one trial (`docs/development.md` has it with the names of functions):

1. `execution.run` prepares a search and starts Ray.
2. `execution.ray_adapters.searcher` is asked by Ray for a trial when a slot is free.
3. `search.coordinator` picks one: unfinished, or suggested by `search.proposer`, and records it.
4. `execution.trainable` restores its state in a worker process and trains it.
5. `training.run` trains, averages and evaluates each epoch, and reports it.
6. `search.coordinator` receives the report, asks `search.asha`, and appends an event to the journal.
7. `experiment.state` folds the event into the state of the experiment.
8. `monitoring`, `tracking` and `results` show, log and tabulate that state.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_swa.errors import Interrupted, RequestError, SearchFailed, TuneSwaError
    from tune_swa.execution.param_space import search_space
    from tune_swa.execution.plain_trainable import trainable
    from tune_swa.from_python.searches import search
    from tune_swa.plugins import register_augmentation, register_dataset, register_model
    from tune_swa.results.api import load_results

__all__ = [
    "Interrupted",
    "RequestError",
    "SearchFailed",
    "TuneSwaError",
    "__version__",
    "load_results",
    "register_augmentation",
    "register_dataset",
    "register_model",
    "search",
    "search_space",
    "trainable",
]
__version__ = "0.1.0"

_MODULES = {
    "Interrupted": "errors",
    "RequestError": "errors",
    "SearchFailed": "errors",
    "TuneSwaError": "errors",
    "load_results": "results.api",
    "register_augmentation": "plugins",
    "register_dataset": "plugins",
    "register_model": "plugins",
    "search_space": "execution.param_space",
    "trainable": "execution.plain_trainable",
}
"""Where each name comes from."""


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: pandas, torch and Ray take their time."""
    if name == "plugins":  # the module, whose `load_plugins` is for programs, too
        import tune_swa.plugins

        return tune_swa.plugins
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Package(ModuleType):
    """The package. Its attribute `search` is the function, whoever imports the room of the same name."""

    @property
    def search(self) -> Any:
        """`from_python.searches.search`."""
        return import_module(f"{__name__}.from_python.searches").search

    @search.setter
    def search(self, room: ModuleType) -> None:
        """Ignore what the import of a module such as `tune_swa.search.asha` puts there."""


sys.modules[__name__].__class__ = _Package
