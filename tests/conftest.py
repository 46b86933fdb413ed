"""Fixtures that several tests share."""

import os
from collections.abc import Callable, Iterator

import pytest
from support import GOLDEN_KOI, RED_KOI, TURTLE, Function, jpeg, mask_shape, true_mask

from maskbank.function.local import start_worker


@pytest.fixture(scope="session", autouse=True)
def no_settings() -> Iterator[pytest.MonkeyPatch]:
    """The tests choose MaskBank's settings, not the environment they run in."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("MASKBANK_", "CVAT_"))]:
            patch.delenv(name)
        patch.setenv("MASKBANK_DEVICE", "cpu")  # where the same request gives the same bits
        patch.setenv("MASKBANK_STORE", "memory://")
        yield patch


@pytest.fixture(scope="session")
def start(no_settings: pytest.MonkeyPatch) -> Callable[..., Function]:
    """Starts one more worker: start(MASKBANK_SIZE=64)."""

    def start(**settings: object) -> Function:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in settings.items():
                patch.setenv(name, str(value))
            return Function(*start_worker())

    return start


@pytest.fixture(scope="session")
def function(start: Callable[..., Function]) -> Function:
    """A worker with the bundled network, at a small working size for speed."""
    return start(MASKBANK_SIZE=128)


@pytest.fixture(scope="session")
def frames() -> list[bytes]:
    """The first frames of the sample clip, as JPEG."""
    return [jpeg(index) for index in range(8)]


@pytest.fixture
def shapes() -> list[dict]:
    """The three animals of the sample clip on its first frame, as masks."""
    return [mask_shape(true_mask(0, object_id)) for object_id in (RED_KOI, GOLDEN_KOI, TURTLE)]
