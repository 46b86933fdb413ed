"""All settings, from environment variables that begin with MASKBANK_; every one has a default."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch

from maskbank.bank.policies import AdaptivePolicy
from maskbank.deadline import MAX_ADAPT_S
from maskbank.files.images import MAX_ASPECT
from maskbank.networks.lite import STRIDE
from maskbank.networks.models import MODELS, interactor_beside
from maskbank.store.opening import StoreUrlError, open_backend, redacted, store_url

Default = TypeVar("Default")
Number = TypeVar("Number", int, float)


NAMES = frozenset(
    {
        "MASKBANK_MODEL",
        "MASKBANK_WEIGHTS",
        "MASKBANK_INTERACTOR_WEIGHTS",
        "MASKBANK_DEVICE",
        "MASKBANK_SIZE",
        "MASKBANK_STORE",
        "MASKBANK_BUDGET",
        "MASKBANK_TTL_HOURS",
        "MASKBANK_CACHE_MB",
        "MASKBANK_STORE_MB",
        "MASKBANK_MAX_PIXELS",
        "MASKBANK_MAX_OBJECTS",
        "MASKBANK_ADAPT_SECONDS",
        "MASKBANK_TOKEN",
    }
)


class SettingsError(ValueError):
    """A setting that cannot be; the text names the variable, its value and what is allowed."""


@dataclass(frozen=True)
class Settings:
    """The settings and their defaults; see the table in docs/admins.md."""

    model: str = "lite"
    weights: Path | None = None  # None: the bundled file
    interactor_weights: Path | None = None  # of the network that finds objects in boxes; None: see `interactor`
    device: str = "cpu"
    short_side: int | None = None  # pixels; None: the model's own
    store: str = "memory://"  # its address; may hold a password
    budget: int | None = None  # entries per bank; None: the model's own
    ttl_hours: float = 8.0  # CVAT refuses states that are older
    cache_mb: int = 2048
    store_mb: int = 8192  # of the banks of all workers together, where they outlive a worker
    max_pixels: int = 40_000_000
    max_objects: int = 50
    adapt_seconds: float = 0.0  # of a request, at most, when objects were outlined; 0: not at all
    token: str | None = field(default=None, repr=False)  # which requests must have; None: every request is answered

    @property
    def interactor(self) -> Path:
        """The file in `interactor_weights`, or the bundled one that goes with the tracker's."""
        return self.interactor_weights or interactor_beside(self.weights)


def read_settings(environment: Mapping[str, str]) -> Settings:
    """The settings that an environment such as `os.environ` asks for; an empty value counts as unset.

    Raises SettingsError with one sentence for the administrator.
    """

    def text(name: str, default: str) -> str:
        return environment.get(name, "").strip() or default

    def file(name: str) -> Path | None:
        value = text(name, "")
        if value and not Path(value).is_file():
            raise SettingsError(f"{name} is {value!r}, but there is no such file.")
        return Path(value) if value else None

    def number(name: str, default: Default, low: float, high: float, kind: Callable[[str], Number]) -> Number | Default:
        value = text(name, "")
        if not value:
            return default
        try:
            parsed: Number | None = kind(value)
        except ValueError:
            parsed = None
        if parsed is None or not low <= parsed <= high:
            what = "a whole number" if kind is int else "a number"
            raise SettingsError(f"{name} is {value!r}, but must be {what} from {low} to {high}.")
        return parsed

    model = text("MASKBANK_MODEL", Settings.model)
    if model not in MODELS:
        raise SettingsError(f"MASKBANK_MODEL is {model!r}, but must be one of {', '.join(MODELS)}.")
    weights = file("MASKBANK_WEIGHTS")
    settings = Settings(
        model=model,
        weights=weights,
        interactor_weights=file("MASKBANK_INTERACTOR_WEIGHTS"),
        device=_device(text("MASKBANK_DEVICE", "auto")),
        short_side=number("MASKBANK_SIZE", None, 64, 2160, int),
        store=_store(environment),
        budget=number("MASKBANK_BUDGET", None, 1000, 10_000_000, int),
        ttl_hours=number("MASKBANK_TTL_HOURS", Settings.ttl_hours, 0.01, 10_000, float),
        cache_mb=number("MASKBANK_CACHE_MB", Settings.cache_mb, 64, 1_000_000, int),
        store_mb=number("MASKBANK_STORE_MB", Settings.store_mb, 64, 1_000_000_000, int),
        max_pixels=number("MASKBANK_MAX_PIXELS", Settings.max_pixels, 10_000, 170_000_000, int),
        max_objects=number("MASKBANK_MAX_OBJECTS", Settings.max_objects, 1, 1000, int),
        adapt_seconds=number("MASKBANK_ADAPT_SECONDS", Settings.adapt_seconds, 0, MAX_ADAPT_S, float),
        token=read_token(environment),
    )
    _check_budget(settings)
    return settings


def refuse_unknown(environment: Mapping[str, str]) -> None:
    """Raises SettingsError for a variable that looks like a setting and is none: a token that is misspelt protects
    nothing."""
    for name in sorted(environment):
        if name.startswith("MASKBANK_") and name not in NAMES:
            raise SettingsError(f"There is no setting {name}.")


def read_token(environment: Mapping[str, str]) -> str | None:
    """The secret that requests to the function must have; None: they need none. Raises SettingsError."""
    token = environment.get("MASKBANK_TOKEN", "").strip()
    if not re.fullmatch(r"[!-~]*", token):
        raise SettingsError("MASKBANK_TOKEN must be ASCII characters without spaces: it is sent in a header.")
    return token or None


def _store(environment: Mapping[str, str]) -> str:
    try:
        url = store_url(environment)
    except StoreUrlError as error:
        raise SettingsError(str(error)) from error
    try:
        open_backend(url, 1.0)
    except StoreUrlError as error:
        raise SettingsError(f"MASKBANK_STORE is {redacted(url)!r}, but {error}.") from error
    return url


def _device(name: str) -> str:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    known = re.fullmatch(r"cpu|cuda(?::([0-9]+))?", name)
    if not known:
        raise SettingsError(f"MASKBANK_DEVICE is {name!r}, but must be auto, cpu, cuda or cuda:N.")
    if name != "cpu":
        _check_cuda(name, int(known[1] or 0))
    return name


def _check_cuda(name: str, index: int) -> None:
    """Refuses a GPU that is not there, or on which nothing can be computed."""
    if torch.version.cuda is None:
        raise SettingsError(f"MASKBANK_DEVICE is {name!r}, but PyTorch {torch.__version__} is built for CPUs only.")
    count = torch.cuda.device_count()
    if index >= count:
        raise SettingsError(
            f"MASKBANK_DEVICE is {name!r}, but PyTorch sees {count} CUDA devices here: check the driver, and that "
            "Docker or Kubernetes gives a GPU to this container."
        )
    try:
        torch.ones(1, device=name).sum().item()
    except RuntimeError as error:  # a card that this build of PyTorch does not know, or an old driver
        reason = str(error).partition("\n")[0].rstrip(".")
        raise SettingsError(
            f"MASKBANK_DEVICE is {name!r}, but PyTorch {torch.__version__} cannot compute there: {reason}."
        ) from error


def _check_budget(settings: Settings) -> None:
    """A bank that does not hold one outlined frame could not start a single track."""
    model = MODELS[settings.model]
    policy = model.policy(settings.budget, 2)
    if not isinstance(policy, AdaptivePolicy):
        return  # the paper's budget gives way
    short_side = settings.short_side or model.short_side
    needed = -(-short_side // STRIDE) * -(-MAX_ASPECT * short_side // STRIDE)  # of the widest image
    if policy.budget >= needed:
        return
    if settings.budget is None:
        raise SettingsError(
            f"MASKBANK_SIZE is {short_side}, but must be smaller unless MASKBANK_BUDGET is at least {needed}."
        )
    raise SettingsError(
        f"MASKBANK_BUDGET is {settings.budget}, but must be at least {needed} where the short side of the working "
        f"image (MASKBANK_SIZE) has {short_side} pixels."
    )
