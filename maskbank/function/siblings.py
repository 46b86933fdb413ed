"""The workers of one container under Nuclio: how many there are, and a folder that only they have."""

import os
import shutil
import tempfile
from pathlib import Path

import yaml

PROCESSOR_YAML = Path("/etc/nuclio/config/processor/processor.yaml")  # what Nuclio makes of function.yaml
PREFIX = "maskbank-workers-"


def count_workers(processor_yaml: Path = PROCESSOR_YAML) -> int:
    """The workers of all triggers in the configuration of Nuclio's processor; 1 where there is none.

    Nuclio tells a worker nothing but its own number. 1.13 writes `maxWorkers`, newer versions `numWorkers`.
    """
    try:
        content = yaml.safe_load(processor_yaml.read_text())
    except (FileNotFoundError, PermissionError):
        return 1
    triggers = (content.get("spec") or {}).get("triggers") or {}
    return max(1, sum(int(each.get("numWorkers") or each.get("maxWorkers") or 1) for each in triggers.values()))


def shared_folder() -> Path:
    """A folder of the processes that this one's parent has started, empty when the first of them asks.

    Folders of parents that are gone, such as those before a restart of the container, are removed.
    """
    parent = os.getppid()
    folder = Path(tempfile.gettempdir()) / f"{PREFIX}{parent}-{_started(parent)}"
    for other in folder.parent.glob(f"{PREFIX}*"):
        pid, _, started = other.name.removeprefix(PREFIX).partition("-")
        if not pid.isdecimal() or str(_started(int(pid))) != started:
            shutil.rmtree(other, ignore_errors=True)  # a sibling may remove it, too
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _started(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None if it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[19])
