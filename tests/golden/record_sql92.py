"""Records what Apache's own filter classes say to every case of sql92_cases.py: sql92-VERSION.json beside this file.

Needs java (17 or later) and the jars that `bench/apache/apache.sh fetch` gets. From the checkout:
    python -m tests.golden.record_sql92
"""

import base64
import json
import os
import subprocess
from pathlib import Path

from tests.golden.sql92_cases import EXPRESSIONS, MESSAGES

VERSION = "5.5.0"
HERE = Path(__file__).parent
GOLDEN = HERE / f"sql92-{VERSION}.json"
SCRIPT = HERE.parents[1] / "bench" / "apache" / "apache.sh"
RUN_S = 120


def main() -> None:
    """Writes the file anew."""
    subprocess.run([str(SCRIPT), "fetch", "--version", VERSION], check=True)
    home = os.environ.get("APACHE_HOME", str(Path.home() / ".cache/apache-rocketmq"))
    jars = Path(os.environ.get("APACHE_LIBS", home)) / f"lib-{VERSION}"
    lines = [_line("M", *(text for pair in message.items() for text in pair)) for message in MESSAGES]
    lines += [_line("E", expression) for expression in EXPRESSIONS]
    command = ["java", "-cp", f"{jars}/*", str(HERE / "java" / "Evaluate.java")]
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=RUN_S, check=True)
    results = done.stdout.split()
    rows = [f"{json.dumps(e)}: {json.dumps(r)}" for e, r in zip(EXPRESSIONS, results, strict=True)]
    GOLDEN.write_text(f'{{"version": "rocketmq-filter {VERSION}", "results": {{\n' + ",\n".join(rows) + "\n}}\n")
    print(f"{len(rows)} expressions, {len(MESSAGES)} messages, {results.count('X')} refused")


def _line(letter: str, *texts: str) -> str:
    return " ".join([letter, *(base64.b64encode(text.encode()).decode() for text in texts)])


if __name__ == "__main__":
    main()
