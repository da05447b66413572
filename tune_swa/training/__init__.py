"""One training run with stochastic weight averaging. Knows nothing of Ray; usable in a notebook.

from tune_swa.data import prepare_dataset
from tune_swa.config import DataSpec, RunSettings
from tune_swa.training.run import Run

run = Run(RunSettings(lr=1e-3, swa_start=9, swa_lr=1e-3), prepare_dataset(DataSpec()))
for record in run:
    print(record.epoch, record.phase, record.accuracy)
"""
