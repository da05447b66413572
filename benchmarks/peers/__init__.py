"""What one would write without this project; the benchmarks compare with these."""
