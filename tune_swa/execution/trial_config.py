"""Read the configuration that a Tuner of the user's gives a trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from tune_swa.config import SWA_CORE, Experiment, RunSettings
from tune_swa.config.problem_lines import describe_problems
from tune_swa.config.yaml_document import Document, quote_value
from tune_swa.errors import RequestError
from tune_swa.text import quote_name

SOURCE = "config"
"""What errors call the configuration."""
SEED = "seed"


def read_settings(experiment: Experiment, config: Mapping[str, Any]) -> RunSettings:
    """Turn the configuration of a trial into the settings of its run.

    The space is read once more with the configuration's values as its constants, so that they are checked as
    those of a space file are, against one another too.

    Args:
        experiment: what the configuration is of.
        config: values of everything that the space searches, of other `train.*` and `averaging.*` settings,
            and the seed. `swa_start: None`: plain training, whatever else it has.

    Raises:
        RequestError: a value is missing, unknown, or cannot be.
    """
    given = {str(name): _simplify_number(value) for name, value in config.items()}
    seed = _take_seed(given, experiment.seed)
    baseline = given.get("swa_start", ...) is None
    if baseline:
        given = {name: value for name, value in given.items() if name not in SWA_CORE}
    _check_complete(experiment, given, baseline=baseline)
    value = _fix_space(experiment, given)
    try:
        fixed = Experiment.model_validate(value)
        return fixed.run_settings("baseline" if baseline else "swa", {}, seed)
    except ValidationError as error:
        raise RequestError("\n".join(describe_problems(error, Document(value, {}), SOURCE))) from None


def _take_seed(given: dict[str, Any], default: int) -> int:
    seed = given.pop(SEED, default)
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise RequestError(f"{SOURCE}: seed: {quote_value(seed)}: expected a whole number of at least 0")
    return seed


def _check_complete(experiment: Experiment, given: Mapping[str, Any], *, baseline: bool) -> None:
    parameters = experiment.baseline_parameters if baseline else experiment.parameters
    missing = [parameter.name for parameter in parameters if parameter.name not in given]
    if missing:
        has = ", ".join(map(quote_name, given)) or "nothing"
        raise RequestError(
            f"{SOURCE}: no {', '.join(missing)}, which the space searches. It has {has}. Give param_space "
            "all that tune_swa.search_space returns, or what is missing one value in the space"
        )


def _fix_space(experiment: Experiment, given: Mapping[str, Any]) -> dict[str, Any]:
    """The space file with the configuration's values as constants, and what a search alone needs left out."""
    value = experiment.model_dump(mode="json", by_alias=True)
    constants = {name: {"constant": one} for name, one in given.items()}
    for parameter in experiment.parameters:  # the SWA settings of a plain run: any values will do
        if parameter.name not in constants:
            constants[parameter.name] = {"constant": experiment.list_extremes(parameter.name)[0]}
    value["space"] = {**value["space"], **constants}
    for section in ("points", "baseline", "search", "scheduler", "confirm"):
        kept = {"averages": value[section]["averages"]} if section == "baseline" else None
        value.pop(section)
        if kept is not None:
            value[section] = kept
    return value


def _simplify_number(value: Any) -> Any:
    """numpy's numbers, which samplers may draw, as Python's; lists and tuples as they are."""
    is_scalar = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_scalar else value
