"""`tune-swa doctor`: what this machine can do, and what would stop a search or surprise its user.

One file for each thing that is looked at, with small functions that return findings. None of them
changes anything: what is written to try a folder is removed again.
"""
