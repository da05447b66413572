"""Ray Tune's own Tuner, ASHA and Optuna over SWA runs, on small digits: a minute on two cores.

python docs/examples/plain_tuner.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

import tune_swa

SPACE = {
    "name": "plain",
    "data": {"dataset": "digits", "image_size": 8, "train_images": 120, "val_fraction": 0.25},
    "train": {"epochs": 8, "batch_size": 32, "warmup_epochs": 1},
    "averaging": {"anneal_epochs": 1},
    "space": {
        "lr": {"log_uniform": [3e-4, 3e-2]},
        "swa_start": {"int": [2, 4]},
        "swa_lr": {"log_uniform": [3e-4, 3e-2]},
    },
}
"""The path of a space file does as well."""


def main(folder: Path, trials: int = 6) -> tune.ResultGrid:
    """Search, and return Ray's results."""
    trainable = tune_swa.trainable(SPACE)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),  # on a GPU: {"cpu": 1, "gpu": 0.25}
        param_space=tune_swa.search_space(SPACE),
        tune_config=tune.TuneConfig(
            metric="accuracy",
            mode="max",
            num_samples=trials,
            search_alg=OptunaSearch(seed=0),
            # the first rung is where all trials average: a live model is worth less than an average
            scheduler=ASHAScheduler(max_t=8, grace_period=6, reduction_factor=2),
            reuse_actors=True,  # a worker imports torch once
        ),
        run_config=tune.RunConfig(
            name="plain",
            storage_path=str(folder.absolute()),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
        ),
    )
    return tuner.fit()


if __name__ == "__main__":
    results = main(Path(sys.argv[1] if len(sys.argv) > 1 else "ray_results"))
    best = results.get_best_result()
    columns = ["trial_id", "config/lr", "config/swa_start", "config/swa_lr", "epoch", "accuracy"]
    print(results.get_dataframe()[columns].to_string(index=False))
    print(f"best: {best.metrics['accuracy']:.4f} after epoch {best.metrics['epoch']} with {best.config}")
