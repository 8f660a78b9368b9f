"""Records what Apache's 4.x-protocol clients write into the trace topic: trace.json beside this file.

Needs java, javac and Maven. From the checkout:
    python -m tests.golden.record_trace
"""

import base64
import json
import subprocess
from pathlib import Path

from tests.compat.apache import ready_reader

VERSIONS = ("4.9.7", "5.5.0")
HERE = Path(__file__).parent
GOLDEN = HERE / "trace.json"
RUN_S = 120


def main() -> None:
    """Writes the file anew."""
    GOLDEN.write_text(json.dumps({version: _texts(version) for version in VERSIONS}, indent=1) + "\n")


def _texts(version: str) -> dict[str, str]:
    command = ["java", "-cp", ready_reader(version), str(HERE / "java" / "Trace.java")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=True)
    pairs = [line.split() for line in done.stdout.splitlines()]
    return {kind: base64.b64decode(text).decode() for kind, text in pairs}


if __name__ == "__main__":
    main()
