"""What long runs need: the sample clip as CVAT sends it, and servers in processes of their own."""

import base64
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from maskbank.files.masks import read_id_mask
from maskbank.shapes.rle import encode_rle

CLIP = Path(__file__).parents[1] / "samples" / "clip"


@cache
def frame(index: int) -> str:
    """A frame of an endless clip, there and back again, as CVAT sends it."""
    last = len(list((CLIP / "frames").iterdir())) - 1
    index %= 2 * last
    return base64.b64encode((CLIP / "frames" / f"{min(index, 2 * last - index):05d}.jpg").read_bytes()).decode()


def objects_on(index: int) -> list[int]:
    """The objects of a frame of the clip."""
    return [int(i) for i in np.unique(read_id_mask(CLIP / "masks" / f"{index:05d}.png")) if i]


def outlines(index: int, objects: list[int]) -> list[dict]:
    ids = read_id_mask(CLIP / "masks" / f"{index:05d}.png")
    return [{"type": "mask", "points": encode_rle(ids == i)} for i in objects]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Process:
    """A server in a process of its own, on a port that it keeps over restarts."""

    def __init__(self, command: list[str], port: int, environment: dict[str, str] | None = None):
        self.command, self.port = command, port
        self.environment = os.environ | (environment or {})
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, env=self.environment, stdout=subprocess.DEVNULL)
        for _ in range(1200):
            with closing(socket.socket()) as probe:
                if not probe.connect_ex(("127.0.0.1", self.port)):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"{self.command[0]} does not start")

    def stop(self, sign: int = signal.SIGTERM) -> None:
        self.process.send_signal(sign)
        self.process.wait(30)


@contextmanager
def redis_server() -> Iterator[Process]:
    """A Redis that keeps what it has over restarts, and nothing afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        keeping = ["--dir", folder, "--save", "", "--appendonly", "yes"]
        redis = Process(["redis-server", "--port", str(port), *keeping], port)
        try:
            yield redis
        finally:
            redis.stop(signal.SIGKILL)
