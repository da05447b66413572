"""Columns of the tables of merged models."""

from __future__ import annotations

from tune_swa.results.columns import AT_TEMPERATURE, TEST_METRICS, Column

SOUPS = (
    Column("merge", "string", "`greedy soup`, `uniform soup`, or `swap`: the mean of SWAP's members."),
    Column("trunk", "string", "Trunk of its trials; there is a soup for each trunk of two or more."),
    Column("step", "int64", "Counts the trials in the order in which they were tried, from 0."),
    Column("trial", "string", "Trial whose average was tried."),
    Column("configuration", "string", "Its configuration in words."),
    Column("kept", "bool", "Whether it stayed in the soup; the first one does."),
    Column("size", "int64", "Number of averages in the mean that was evaluated, this one included."),
    Column("accuracy", "float64", "Fraction of validation images that this mean has right, 0 to 1."),
    Column("nll", "float64", "Its negative log-likelihood per validation image, nats."),
    Column("ece", "float64", "Its expected calibration error on the validation images, 0 to 1."),
    Column("own_accuracy", "float64", "Fraction of validation images right by the trial alone, 0 to 1."),
    Column("own_nll", "float64", "Negative log-likelihood per validation image of the trial alone, nats."),
)
"""Columns of soups.parquet: one row for each trial of a merge, in the order in which they were tried."""

MERGES = (
    Column("merge", "string", "As in soups.parquet."),
    Column("run", "string", "Name of the merged model in predictions.parquet: merge and seed."),
    Column("seed", "int64", "Seed of its members."),
    Column("look", "int64", "First look that it belongs to."),
    Column("members", "string", "Runs that are merged, as in confirm.parquet, in this order, joined by `+`."),
    Column("configurations", "string", "Their configurations in words, joined by `; `."),
    Column("size", "int64", "Number of members."),
    Column("images", "int64", "Number of test images; null until tested."),
    *(
        Column(f"val_{name}", "float64", f"{meaning}; null until tested.")
        for name, meaning in (
            ("accuracy", "Fraction of validation images right, 0 to 1"),
            ("nll", "Negative log-likelihood per validation image, nats"),
            ("ece", "Expected calibration error on the validation images, 0 to 1"),
        )
    ),
    *(
        Column(f"test_{name}", "float64", f"{meaning}; null until tested.")
        for name, meaning in (*TEST_METRICS, *AT_TEMPERATURE)
    ),
)
"""Columns of merges.parquet: one row for each merge and fresh seed."""
