"""Search hyperparameters of stochastic weight averaging, and say honestly what it gains."""

__version__ = "0.1.0"
