"""Statistics of fresh seeds: intervals, the race, planned looks and the rule. On numpy and scipy alone.

`statistics` has intervals and tests of one difference, `race` says who stays, `looks` when the test
images are looked at and at which level, `rule` what a look says, `foresight` what it will be able to
say, and `checks` what else the runs show.
"""
