"""Where trials run: everything that uses Ray."""
