"""Run `init`, which prints the spaces that come with the package."""

from __future__ import annotations

import argparse
import sys


def init_command(options: argparse.Namespace) -> int:
    """Print one shipped space as it is, or list them all; what to do with it goes to a terminal only."""
    from tune_swa.config.shipped_spaces import describe_space, list_spaces, read_space

    if options.shipped is None:
        names = list(list_spaces())
        width = max(map(len, names), default=0)
        for name in names:
            print(f"{name:{width}}  {describe_space(name)}")
        hint = "Print one with its comments: tune-swa init NAME. Search one: tune-swa search --space NAME"
    else:
        print(read_space(options.shipped), end="")
        hint = (
            f"Save it: tune-swa init {options.shipped} > mine.yaml. "
            "Change it, and search: tune-swa search --space mine.yaml"
        )
    if sys.stdout.isatty():
        sys.stdout.flush()
        print(f"\n{hint}", file=sys.stderr)
    return 0
