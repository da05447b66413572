"""Statistics of a confirmation: intervals, the race, the looks and the rule. On numpy and scipy alone."""
