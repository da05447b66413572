"""Survey this machine's GPUs and memory."""
