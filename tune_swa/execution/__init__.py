"""Run trials under Ray. Only the MLflow and W&B callbacks in `tracking` use Ray elsewhere."""
