"""Every part of benchmarks/gpu.py, in the order in which they run."""

from __future__ import annotations

from functools import partial

from gpu_checks import (
    PRECISIONS,
    check_export,
    check_refresh,
    check_restoring,
    check_streaming,
    check_tf32,
    check_training,
    describe_machine,
)
from gpu_measures import (
    measure_compile,
    measure_epochs,
    measure_precisions,
    measure_throughput,
    prepare_images,
)
from gpu_parts import Part
from gpu_process_checks import check_exhausted_memory, check_lost_process, check_two_processes
from gpu_side_by_side import measure_at_once, measure_context, measure_probe, measure_second_trial

CHECKS: tuple[Part, ...] = (
    Part("the machine", "check", describe_machine, 60),
    *(Part(f"{p} trains", "check", partial(check_training, precision=p), 60) for p in PRECISIONS),
    Part("TF32 is off in fp32", "check", check_tf32, 30),
    Part("resident = streamed = CPU's batches", "check", check_streaming, 60, fresh=True),
    Part("restored = straight run", "check", check_restoring, 60, fresh=True),
    Part("BN refresh = update_bn", "check", check_refresh, 40, fresh=True),
    Part("export, with and without the GPU", "check", check_export, 90),
    Part("memory exhausted and recovered", "check", check_exhausted_memory, 60, fresh=True),
    Part("two processes on one card", "check", check_two_processes, 90, fresh=True),
    Part("a lost process", "check", check_lost_process, 60),
)

MEASURES: tuple[Part, ...] = (
    Part("preparing images", "measurement", prepare_images, 90),
    Part("images/s, large", "measurement", lambda b, r: measure_throughput(b, r, b.large), 60),
    Part("epochs, large", "measurement", lambda b, r: measure_epochs(b, r, b.large), 90),
    Part("precisions, large", "measurement", lambda b, r: measure_precisions(b, r, b.large), 60),
    Part("context of a process", "measurement", measure_context, 40),
    Part("what gpus_per_trial: auto finds", "measurement", measure_probe, 60, fresh=True),
    Part("trials at once", "measurement", measure_at_once, 120, fresh=True),
    Part("a second trial's first step", "measurement", measure_second_trial, 60, fresh=True),
    Part("images/s, small", "measurement", lambda b, r: measure_throughput(b, r, b.small), 60),
    Part("epochs, small", "measurement", lambda b, r: measure_epochs(b, r, b.small), 60),
    Part("precisions, small", "measurement", lambda b, r: measure_precisions(b, r, b.small), 40),
    Part("compiled, large", "measurement", lambda b, r: measure_compile(b, r, b.large), 120, fresh=True),
    Part("compiled, small", "measurement", lambda b, r: measure_compile(b, r, b.small), 90, fresh=True),
)
