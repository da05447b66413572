"""What came out of an experiment: tables, files, and words. Everything here is a fold over its journal.

Importing this package imports neither ray, torch nor optuna, so results can be read on a laptop that has none
of them. Optuna is imported by what uses it (the importance of settings, and its own file), torch by what
loads a model.
"""
