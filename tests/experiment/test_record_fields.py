"""What a run reports of an epoch comes back from the journal; impossible values are refused while reading."""

from __future__ import annotations

import dataclasses

import pytest

from tune_swa.experiment.event_lines import decode_event, encode_event
from tune_swa.experiment.events import DamagedError, EpochReported
from tune_swa.experiment.field_types import EpochFields
from tune_swa.training.records import EpochRecord

RECORD = EpochRecord(
    epoch=3, phase="branch", learning_rate=1e-3, train_loss=0.5, accuracy=0.75, live_accuracy=0.7, nll=0.6,
    ece=0.1, n_averaged=2, train_seconds=1.0, bn_seconds=0.1, eval_seconds=0.2, images_per_second=400.0,
    average="ema-2", nll_sd=0.9,
)  # fmt: skip


def report(**changes: object) -> EpochReported:
    record = {**RECORD.as_dict(), "shared_from": "swa-0001", **changes}
    return EpochReported(trial="swa-0000", record=record, decision="continue", rung=None, checkpoint=None)


def test_the_journal_keeps_every_field_of_a_record() -> None:
    """msgspec leaves out what the type of a record does not name, so a resume would do without it."""
    assert {field.name for field in dataclasses.fields(EpochRecord)} <= EpochFields.__annotations__.keys()
    found = decode_event(encode_event(report()))
    assert isinstance(found, EpochReported)
    assert found.record == {**RECORD.as_dict(), "shared_from": "swa-0001"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("accuracy", 1.5), ("accuracy", "half"), ("epoch", -1), ("phase", "root"), ("n_averaged", 0.5)],
)
def test_an_impossible_value_is_named(field: str, value: object) -> None:
    line = encode_event(report(**{field: value}))
    with pytest.raises(DamagedError, match=f"^{field} is {value!r}$"):
        decode_event(line)
    published = EpochReported(
        trial="swa-0000", record=RECORD.as_dict(), decision="continue", rung=None, checkpoint=None,
        published={**RECORD.as_dict(), field: value},
    )  # fmt: skip
    with pytest.raises(DamagedError, match=f"^{field} is {value!r}$"):
        decode_event(encode_event(published))
