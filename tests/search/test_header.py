"""What a resumed search is told when its surroundings have changed."""

from __future__ import annotations

from tune_swa.search.header import PACKAGES, other_suggestions, versions


def test_versions_of_what_the_numbers_depend_on() -> None:
    assert {"python", "tune_swa", *PACKAGES} == set(versions())


def test_samplers_of_another_version_are_told() -> None:
    begun = {"versions": versions()}
    assert other_suggestions(begun) is None
    now = versions()["optuna"]
    begun["versions"]["optuna"] = "0.1"
    assert other_suggestions(begun) == (
        f"optuna was 0.1, is {now}: what is suggested from here on may differ from what would have been"
    )
