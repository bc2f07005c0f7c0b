"""One JSON file per device and number of threads; running a suite again replaces that suite alone.
No torch here.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paperlib.basics.files import write_atomically

SCHEMA = 1
SUITES = ("scoring", "training", "many", "losses", "scaling")


def slug(device: str, threads: int) -> str:
    """A file's name for a device's.

    >>> slug("NVIDIA H100 80GB HBM3", 16)
    'nvidia-h100-80gb-hbm3-16'
    """
    return f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{threads}"


def read(path: Path) -> dict[str, Any]:
    """A file of results. Raises ValueError, naming the file, if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']!r}, not {SCHEMA}")
        unknown = set(content["suites"]) - set(SUITES)
        if unknown:
            raise ValueError(f"unknown suites {sorted(unknown)}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} holds no results of the benchmark: {type(error).__name__}: {error}"
        ) from error
    return content


def read_all(folder: Path) -> list[dict[str, Any]]:
    """Every file of results in a folder, in the order of their names."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


def merge(
    folder: Path, environment: Mapping[str, Any], suite: str, content: Mapping[str, Any]
) -> Path:
    """Put one suite into its device's file, beside the other suites; returns the file.

    environment  needs "device" and "threads"; it is kept with the suite, since suites may come from
    different commits.
    """
    path = folder / f"{slug(environment['device'], environment['threads'])}.json"
    suites = read(path)["suites"] if path.exists() else {}
    suites[suite] = {"environment": dict(environment), **content}
    ordered = {name: suites[name] for name in SUITES if name in suites}
    whole = {
        "schema": SCHEMA,
        "device": environment["device"],
        "threads": environment["threads"],
        "suites": ordered,
    }
    write_atomically(path, json.dumps(whole, indent=1, allow_nan=False) + "\n")
    return path
