"""The command *doctor*."""

import argparse
import dataclasses
import json
from typing import Any

from napari_2dmamba.cli.exit_codes import FAILED, OK
from napari_2dmamba.cli.output import say


def add_doctor_command(commands: Any) -> None:
    """Add ``doctor`` to the command line."""
    doctor = commands.add_parser("doctor", help="say what works here, and what to do")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")
    doctor.set_defaults(action=_doctor)


def _doctor(options: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    from napari_2dmamba.doctor import examine

    findings = examine()
    if options.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=1))
    else:
        for finding in findings:
            mark = {"ok": "ok  ", "note": "note", "problem": "FAIL"}[finding.state]
            say(f"{mark}  {finding.subject}: {finding.found}")
            if finding.advice:
                say(f"      {finding.advice}")
    return FAILED if any(finding.state == "problem" for finding in findings) else OK
