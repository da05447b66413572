"""What came out of an experiment: tables, files, and words. Everything here is a fold over its journal.

Nothing in this package imports ray, torch or optuna, so results can be read on a laptop that has none of
them.
"""
