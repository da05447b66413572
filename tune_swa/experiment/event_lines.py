"""Read and write events as lines of JSON."""

from __future__ import annotations

import codecs
import json
from typing import Any, Union, cast

import msgspec

from tune_swa.experiment import events, merge_events
from tune_swa.experiment.events import FORMAT, DamagedError, Event, ExperimentCreated, UnknownEvent
from tune_swa.experiment.field_types import convert_checked

EVENTS: dict[str, type[Event]] = {
    str(kind.__struct_config__.tag): kind
    for module in (events, merge_events)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Event) and kind not in (Event, UnknownEvent)
}
"""The kinds by their names in the journal."""

_DECODER = msgspec.json.Decoder(Union[tuple(EVENTS.values())])  # noqa: UP007 - made of a tuple


_encode_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
"""Python's, since msgspec's writes NaN as null and refuses lone surrogates."""


def encode_event(event: Event) -> bytes:
    """Write an event as one line.

    Raises:
        ValueError: a field is NaN or infinite, which JSON cannot hold.
    """
    if isinstance(event, UnknownEvent):
        fields = {"event": event.name, "time": event.time, **event.fields}
    else:
        fields = msgspec.to_builtins(event)
    return _encode_json(fields).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """Read one line.

    Raises:
        DamagedError: it is no event, or a field has an impossible value.
    """
    try:
        return cast(Event, _DECODER.decode(line))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _decode_slowly(line)


def _decode_slowly(line: bytes) -> Event:
    """Read a line that msgspec refuses: one of an unknown kind, or with lone surrogates.

    Names of files that are no UTF-8 are written as lone surrogates.
    """
    try:
        fields = decode_json(line.removeprefix(codecs.BOM_UTF8).decode())
        name = fields["event"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DamagedError("it is not an event") from None
    if not isinstance(name, str):
        raise DamagedError("it is not an event")
    kind = EVENTS.get(name)
    if kind is None or (kind is ExperimentCreated and fields.get("format") != FORMAT):
        return UnknownEvent(name=name, fields=fields)
    try:
        return convert_checked(fields, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise DamagedError(_name_value(fields, str(error))) from None


def _name_value(fields: dict[str, Any], error: str) -> str:
    """Say what a value of an epoch's record is, where msgspec says what it should be."""
    path = error.rpartition("`$.")[2].rstrip("`")
    for key in ("record", "published"):
        name, record = path.removeprefix(f"{key}."), fields.get(key)
        if isinstance(record, dict) and name in record:
            return f"{name} is {record[name]!r}"[:100]
    return error


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


decode_json = json.JSONDecoder(parse_constant=_refuse_constant).decode
"""Python's own reads NaN and Infinity too, which no journal has."""
