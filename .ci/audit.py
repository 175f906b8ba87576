"""Whether a version in constraints.txt has a known vulnerability: `make audit`.

Red (1) where one is known. Where the tool or its database can't be had, one line says so and it is no failure: a
machine without a network must be able to run everything else. First one package is asked for, which surely is known:
so nothing that looks like an answer, but is none, counts as a clean bill.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PINS = Path(__file__).resolve().parents[1] / "constraints.txt"
SURE = "jinja2"
SECONDS = 600


def pins(text: str) -> list[str]:
    """Lines `name==version` without what is local to a build, as in 2.11.0+cpu."""
    return [line.partition("+")[0] for line in text.splitlines() if "==" in line and not line.startswith("#")]


def verdict(report: dict[str, Any]) -> tuple[int, str]:
    """(exit code, what is said) of pip-audit's JSON."""
    found = [one for one in report["dependencies"] if one.get("vulns")]
    left_out = [one["name"] for one in report["dependencies"] if "skip_reason" in one]
    asked = len(report["dependencies"]) - len(left_out)
    lines = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no version yet'}"
        for one in found
        for vuln in one["vulns"]
    ]
    if lines:
        return 1, "\n".join([*lines, "raise these versions in constraints.txt"])
    if not asked:
        return 0, "skipped: the database knows none of the packages"
    told = f"; unknown to it: {', '.join(left_out)}" if left_out else ""
    return 0, f"{asked} packages, no known vulnerability{told}"


def audit(tool: Sequence[str], lines: Sequence[str]) -> tuple[int, str]:
    """`verdict` on some pins. 0 and a reason where the tool gives no answer."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pins.txt"
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        command = [*tool, "--requirement", str(file), "--no-deps", "--disable-pip", "--format", "json"]
        try:
            done = subprocess.run(
                [*command, "--progress-spinner", "off"], capture_output=True, text=True, timeout=SECONDS, check=False
            )
            return verdict(json.loads(done.stdout))
        except subprocess.TimeoutExpired:
            return 0, f"skipped: no answer within {SECONDS} seconds"
        except (OSError, ValueError, KeyError, TypeError):
            last = done.stderr.strip().splitlines()[-1:] if "done" in locals() else ["the tool can't be started"]
            return 0, f"skipped: {(last or ['no answer'])[0][:200]}"


def main(tool: Sequence[str]) -> int:
    lines = pins(PINS.read_text(encoding="utf-8"))
    sure = [line for line in lines if line.lower().startswith(f"{SURE}==")]
    code, told = audit(tool, sure)
    if not told.startswith("skipped"):
        code, told = audit(tool, lines)
    print(f"audit: {told}")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
