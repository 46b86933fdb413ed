"""What function.yaml says of the function, for those who are not Nuclio."""

from dataclasses import dataclass
from pathlib import Path

import yaml

from maskbank.local_function import FUNCTION_FOLDER


@dataclass(frozen=True)
class Function:
    """The part of function.yaml that a server needs."""

    metadata: dict
    description: str
    environment: dict[str, str]  # of its workers
    max_body_bytes: int  # of a request
    patience_s: float  # for which a request waits for a worker

    @property
    def name(self) -> str:
        return self.metadata["name"]

    def card(self, port: int) -> dict[str, dict]:
        """What Nuclio's dashboard says of the function when it runs on `port`, as far as CVAT reads it."""
        return {
            "metadata": self.metadata,
            "spec": {"description": self.description},
            "status": {"state": "ready", "httpPort": port},
        }


def read_function(path: Path = FUNCTION_FOLDER / "function.yaml") -> Function:
    content = yaml.safe_load(path.read_text())
    spec = content["spec"]
    [trigger] = spec["triggers"].values()
    return Function(
        metadata=content["metadata"],
        description=spec["description"],
        environment={variable["name"]: variable["value"] for variable in spec["env"]},
        max_body_bytes=trigger["attributes"]["maxRequestBodySize"],
        patience_s=trigger["workerAvailabilityTimeoutMilliseconds"] / 1000,
    )
