"""Averages of weights along one run."""
