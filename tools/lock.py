"""Writes requirements.lock: of each version in requirements.txt, torch aside, the wheels that the image may get.

The image has Python 3.11 on Linux, on x86-64 or ARM. Torch comes from PyTorch's own index, see base.Dockerfile.
Run this after a change of requirements.txt: `.venv/bin/python tools/lock.py`.
"""

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MACHINES = ("x86_64", "aarch64")
LINUX = ("2014", "_2_17", "_2_24", "_2_26", "_2_27", "_2_28")  # manylinux: what Debian 12 can run
HEADER = """\
# Written by tools/lock.py: what `pip install --require-hashes` may install into the image (Python 3.11, Linux).
"""


def download(requirements: list[str], machine: str, folder: Path) -> None:
    """Puts the wheels for a machine into a folder."""
    platforms = [word for linux in LINUX for word in ("--platform", f"manylinux{linux}_{machine}")]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--implementation", "cp", "--python-version", "3.11", *platforms, "--dest", str(folder)]
    subprocess.run([*command, *requirements], check=True)


def main() -> None:
    """Downloads the wheels, and writes their hashes."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith(("#", "torch=="))]
    with tempfile.TemporaryDirectory() as folder:
        for machine in MACHINES:
            download(requirements, machine, Path(folder))
        hashes: dict[str, list[str]] = {}
        for wheel in sorted(Path(folder).iterdir()):
            name, version, *_ = wheel.name.split("-")
            requirement = f"{name.lower().replace('_', '-')}=={version}"
            hashes.setdefault(requirement, []).append(hashlib.sha256(wheel.read_bytes()).hexdigest())
    blocks = (" \\\n    --hash=sha256:".join([requirement, *found]) for requirement, found in hashes.items())
    (ROOT / "requirements.lock").write_text(HEADER + "\n".join(blocks) + "\n")


if __name__ == "__main__":
    main()
