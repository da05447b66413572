"""Helpers of the tests: drawn data, simulated searches, and programs that are made to fail."""
