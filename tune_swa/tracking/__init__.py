"""The logs of other programs that a search can write: TensorBoard, Optuna, MLflow, Weights & Biases."""
