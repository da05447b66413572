"""What do `doctor` and `schema` do, which need no experiment?"""

from __future__ import annotations

import argparse
import json

from tune_swa.errors import SearchFailed


def doctor_command(options: argparse.Namespace) -> int:
    from tune_swa.doctor.checks import Request, examine
    from tune_swa.doctor.output import show, summary

    request = Request(
        results_dir=options.results_dir,
        data_dir=options.data_dir,
        storage=options.storage,
        address=options.address,
        ray=options.ray,
    )
    findings = show(examine(request))
    print(f"\n{summary(findings)}")
    return SearchFailed.exit_code if any(finding.level == "problem" for finding in findings) else 0


def schema_command(options: argparse.Namespace) -> int:
    from tune_swa.config import Experiment

    print(json.dumps(Experiment.model_json_schema(by_alias=True), indent=2))
    return 0
