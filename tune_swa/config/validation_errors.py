"""Describe what pydantic finds wrong, in the words of someone who writes a space file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "text (in quotes where it looks like a number)",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "letters, digits, dot, dash and underscore, a letter or digit first",
    "tuple_type": "a list, such as [a, b]",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "dict_type": "settings of its own (KEY: VALUE)",
    "model_type": "settings of its own (KEY: VALUE)",
    "model_attributes_type": "settings of its own (KEY: VALUE)",
    "union_tag_invalid": "one of {expected_tags} as {discriminator}, not '{tag}'",
    "union_tag_not_found": "{discriminator} among its settings, which names the kind",
    "literal_error": "{expected}",
    "greater_than": "a number greater than {gt:g}",
    "greater_than_equal": "a number of at least {ge:.15g}",
    "less_than": "a number less than {lt:g}",
    "less_than_equal": "a number of at most {le:.15g}",
}


def describe_expected(problem: Mapping[str, Any]) -> str | None:
    """Describe the right type (`a whole number`); None if the problem has its own words.

    Args:
        problem: an entry of `ValidationError.errors()`.
    """
    words = _WORDS.get(problem["type"])
    return None if words is None else words.format_map(problem.get("ctx", {}))


def describe_problem(problem: Mapping[str, Any]) -> str:
    """The problem in one phrase."""
    expected = describe_expected(problem)
    if expected is not None:
        return f"expected {expected}"
    message = str(problem["msg"])
    own = problem["type"] in ("space", "value_error")
    return message.removeprefix("Value error, ") if own else message[:1].lower() + message[1:]
