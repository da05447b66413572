"""Statistics of runs on fresh seeds, on numpy and scipy alone.

- `statistics`, `power`, `calibration`: intervals and tests of one difference, their power, and calibration
- `race`: which configurations go on to the test images
- `looks`: when the test images are looked at, and at which level
- `rule`: the outcome of a look
- `foresight`: what planned looks can detect
- `checks`: validation against test accuracy, and configurations as good as the best
"""
