"""Define an experiment: the space file as pydantic models, and the search space they resolve to.

Everything else in the package takes its settings from here. Reading YAML, line numbers and
`--set` live in `tune_swa.config.yaml_file`; this package knows only values.
"""

from tune_swa.config.arithmetic import ArithmeticSpec
from tune_swa.config.averages import (
    AverageSpec,
    EmaAverage,
    SubspaceAverage,
    count_snapshots,
    count_tracked,
    count_weights,
    list_choosable,
)
from tune_swa.config.channels import ChannelStatistics
from tune_swa.config.confirm_sections import ConfirmSpec
from tune_swa.config.experiment import Experiment, RunSettings
from tune_swa.config.merging import MergeSpec, SoupSpec, SwapSpec
from tune_swa.config.objective import Metric, ObjectiveSpec
from tune_swa.config.search_space import Choices, Parameter, Range, count_space, enumerate_space
from tune_swa.config.sections import (
    AveragingSpec,
    BaselineSpec,
    DataSpec,
    ModelSpec,
    ResourcesSpec,
    SchedulerSpec,
    SearchSpec,
    TrainSpec,
)
from tune_swa.config.values import (
    CORE_PARAMETERS,
    SWA_CORE,
    Params,
    Value,
    drop_repeated,
    format_label,
    format_short,
    format_value,
    is_swa_setting,
    params_key,
)

__all__ = [
    "CORE_PARAMETERS",
    "SWA_CORE",
    "ArithmeticSpec",
    "AverageSpec",
    "AveragingSpec",
    "BaselineSpec",
    "ChannelStatistics",
    "Choices",
    "ConfirmSpec",
    "DataSpec",
    "EmaAverage",
    "Experiment",
    "MergeSpec",
    "Metric",
    "ModelSpec",
    "ObjectiveSpec",
    "Parameter",
    "Params",
    "Range",
    "ResourcesSpec",
    "RunSettings",
    "SchedulerSpec",
    "SearchSpec",
    "SoupSpec",
    "SubspaceAverage",
    "SwapSpec",
    "TrainSpec",
    "Value",
    "count_snapshots",
    "count_space",
    "count_tracked",
    "count_weights",
    "drop_repeated",
    "enumerate_space",
    "format_label",
    "format_short",
    "format_value",
    "is_swa_setting",
    "list_choosable",
    "params_key",
]
