"""`python -m tune_swa` is `tune-swa`."""

import sys

from tune_swa.cli import main

sys.exit(main())
