"""kubectl, whose words are the demo's own when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def kubectl(*arguments: str) -> str:
    done = subprocess.run(["kubectl", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(arguments)} failed: {done.stderr.strip()}")
    return done.stdout


def get(namespace: str, kind: str, name: str) -> dict[str, Any]:
    return dict(json.loads(kubectl("-n", namespace, "get", kind, name, "-o", "json")))
