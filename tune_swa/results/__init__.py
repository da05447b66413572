"""Results of an experiment: tables, verdict, report and files, all folds over its journal.

Importing this package imports neither ray, torch nor optuna, so results can be read where none of them is
installed. Optuna is imported by the importance of settings, torch by `Results.best_model`.
"""
