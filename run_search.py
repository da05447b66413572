"""The main command: `python run_search.py --space search_spaces/digits.yaml`."""

import sys

from tune_swa.cli import run_search

if __name__ == "__main__":
    sys.exit(run_search())
