"""Running many trials: what is proposed, what is stopped, where it runs. The only place for Ray."""
