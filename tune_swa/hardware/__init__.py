"""What this machine's GPUs and memory can do."""
