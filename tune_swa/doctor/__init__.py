"""`tune-swa doctor`: check a machine before a search.

The checks are functions that yield findings and change nothing: what is written to try a folder is removed.
"""
