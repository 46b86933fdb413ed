"""How long each stage of a request took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings(dict[str, float]):
    """Milliseconds by stage, in the order in which the stages came first."""

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time that the block takes, also when it fails."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self[name] = self.get(name, 0.0) + (time.perf_counter() - started) * 1000

    def rounded(self) -> dict[str, float]:
        """Milliseconds by stage, to a tenth."""
        return {name: round(milliseconds, 1) for name, milliseconds in self.items()}
