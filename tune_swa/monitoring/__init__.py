"""Show a search while it runs: progress, warnings, refreshed result files."""
