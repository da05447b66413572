"""Logs for experiment trackers: TensorBoard, Optuna, MLflow, Weights & Biases."""
