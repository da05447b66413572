"""Run `doctor` and `schema`, which need no experiment."""

from __future__ import annotations

import argparse
import json

from tune_swa.errors import SearchFailed


def doctor_command(options: argparse.Namespace) -> int:
    from tune_swa.doctor.checks import run_checks
    from tune_swa.doctor.findings import print_findings, summarize_findings

    checks = run_checks(
        options.results_dir, options.data_dir, options.storage, options.address, ray=options.ray
    )
    findings = print_findings(checks)
    print(f"\n{summarize_findings(findings)}")
    return SearchFailed.exit_code if any(finding.level == "problem" for finding in findings) else 0


def schema_command(options: argparse.Namespace) -> int:
    from tune_swa.config import Experiment

    print(json.dumps(Experiment.model_json_schema(by_alias=True), indent=2))
    return 0
