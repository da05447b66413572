"""Call a search from a Python program or a notebook: it runs in a process of its own."""
