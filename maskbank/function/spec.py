"""The function's specification, function.yaml and interactor.yaml, for servers other than Nuclio."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskbank.resources import FUNCTION_YAML, INTERACTOR_YAML


@dataclass(frozen=True)
class FunctionSpec:
    """The part of function.yaml that a server needs."""

    metadata: dict[str, Any]
    description: str
    as_interactor: dict[str, Any]  # interactor.yaml: by what name and how CVAT finds it as an interactor
    environment: dict[str, str]  # of its workers
    max_body_bytes: int  # of a request
    worker_wait_s: float  # for which a request waits for a worker
    event_timeout_s: float  # for which a worker may work on a request

    def dashboard_entries(self, port: int) -> dict[str, dict[str, Any]]:
        """What Nuclio's dashboard says of the function when it runs on `port`, as far as CVAT reads it, by name: as a
        tracker and as an interactor, which are the same for who asks them."""
        status = {"state": "ready", "httpPort": port}
        as_tracker = {"metadata": self.metadata, "spec": {"description": self.description}}
        return {entry["metadata"]["name"]: entry | {"status": status} for entry in (as_tracker, self.as_interactor)}


def read_function_spec(path: Path = FUNCTION_YAML) -> FunctionSpec:
    """The specification in a function.yaml."""
    content = yaml.safe_load(path.read_text())
    spec = content["spec"]
    [trigger] = spec["triggers"].values()
    return FunctionSpec(
        metadata=content["metadata"],
        description=spec["description"],
        as_interactor=yaml.safe_load(INTERACTOR_YAML.read_text()),
        environment={variable["name"]: variable["value"] for variable in spec["env"]},
        max_body_bytes=trigger["attributes"]["maxRequestBodySize"],
        worker_wait_s=trigger["workerAvailabilityTimeoutMilliseconds"] / 1000,
        event_timeout_s=_seconds(spec["eventTimeout"]),
    )


def _seconds(duration: str) -> float:
    """Of a duration as Go writes it, such as 1m30s."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(ms|s|m|h)", duration))
