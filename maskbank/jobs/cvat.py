"""All contact with a CVAT server, through its SDK: jobs, frames, annotations; every failure is one sentence."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import urllib3
from cvat_sdk import Client, models
from cvat_sdk.api_client.exceptions import ApiException, OpenApiException
from cvat_sdk.core.auth import ClientAuthParameters, get_auth_factory, make_client_from_cli
from cvat_sdk.core.exceptions import CvatSdkException
from cvat_sdk.core.helpers import get_paginated_collection
from cvat_sdk.core.proxies.annotations import AnnotationUpdateAction

from maskbank.function.client import seconds_to_wait
from maskbank.jobs.objects import Label
from maskbank.jobs.retrying import RETRYABLE, BusyError
from maskbank.jobs.uploads import Annotations
from maskbank.shapes.shape import SHAPE_TYPES

DEFAULTS = {"group": 0, "source": "manual"}  # of what older servers leave out
SHAPE_DEFAULTS = {"z_order": 0, "occluded": False, "outside": False, "rotation": 0.0}
TIMEOUT_S = 300  # of one request; CVAT itself takes long for jobs with many annotations


@dataclass(frozen=True)
class Login:
    """Which server, and as whom. What is missing is looked for where cvat-cli looks for it: in CVAT_ACCESS_TOKEN, in
    PASS, and among the saved profiles; a password is asked for in the end.
    """

    server_host: str | None = None
    auth: str | None = None  # USER[:PASSWORD]
    profile: str | None = None
    organization: str | None = None
    insecure: bool = False


@dataclass(frozen=True)
class CvatJob:
    """A job as far as tracking needs it."""

    id: int
    task: int
    frames: tuple[int, ...]  # in order, as annotations number them; without those that are deleted
    labels: tuple[Label, ...]

    def labels_named(self, names: Sequence[str]) -> dict[int, Label]:
        """Its labels with these names, by id; all if there are no names. ValueError for a name that it has not."""
        by_name = {label.name: label for label in self.labels}
        for name in names:
            if name not in by_name:
                raise ValueError(f"Job {self.id} has no label {name}; it has {', '.join(by_name) or 'none'}.")
        return {by_name[name].id: by_name[name] for name in names or by_name}


class Cvat:
    """A CVAT server as one user sees it.

    All methods raise ValueError where CVAT refuses, and ConnectionError where it may answer later.

    Args:
        client: logged in.
    """

    def __init__(self, client: Client):
        self._client = client
        self.host: str = client.api_map.host

    def jobs_of_task(self, task_id: int) -> list[int]:
        """The ids of a task's annotation jobs: neither ground truth nor replicas. ValueError where it has none."""
        api = self._client.api_client
        with _plainly(self.host, f"task {task_id}"):
            self._json(api.tasks_api.retrieve, task_id)
            jobs = self._list(api.jobs_api.list_endpoint, task_id=task_id)
            found = sorted(job["id"] for job in jobs if job.get("type", "annotation") == "annotation")
        if not found:
            raise ValueError(f"Task {task_id} has no annotation jobs.")
        return found

    def job(self, job_id: int) -> CvatJob:
        """A job with its frames and labels; ValueError for one of 3D data, or whose task is still being made."""
        api = self._client.api_client
        with _plainly(self.host, f"job {job_id}"):
            job = self._json(api.jobs_api.retrieve, job_id)
            meta = self._json(api.jobs_api.retrieve_data_meta, job_id)
            labels = tuple(map(_label, self._list(api.labels_api.list_endpoint, job_id=job_id)))
            task, dimension = int(job["task_id"]), job.get("dimension") or "2d"
            frames = () if job["start_frame"] is None else _frames(job, meta)
        if dimension != "2d":
            raise ValueError(f"Job {job_id} is of {dimension} data; only images and videos can be tracked.")
        if job["start_frame"] is None:
            raise ValueError(f"Job {job_id} has no frames yet; its task is still being made.")
        return CvatJob(job_id, task, frames, labels)

    def annotations(self, job_id: int) -> dict[str, list[Any]]:
        """All annotations of a job, in lists by kind: shapes, tracks, tags. They have all fields that are read of them:
        what an older server leaves out has its default, and without the others it is no CVAT that is known."""
        with _plainly(self.host, f"job {job_id}"):
            found = self._json(self._client.api_client.jobs_api.retrieve_annotations, job_id)
            return {
                "shapes": [_shape(shape, ("id", "label_id"), DEFAULTS) for shape in found["shapes"]],
                "tracks": [_track(track) for track in found["tracks"]],
                "tags": [_annotation(tag, (), DEFAULTS) for tag in found.get("tags") or ()],
            }

    def image(self, job_id: int, frame: int) -> bytes:
        """The encoded image of a frame, in its original quality."""
        with _plainly(self.host, f"frame {frame} of job {job_id}"):
            retrieve = self._client.api_client.jobs_api.retrieve_data
            return self._answer(retrieve, job_id, type="frame", number=frame, quality="original")

    def create(self, job_id: int, annotations: Annotations) -> None:
        """Adds annotations to a job."""
        self._patch(job_id, annotations, AnnotationUpdateAction.CREATE)

    def delete(self, job_id: int, annotations: Annotations) -> None:
        """Deletes annotations, given as CVAT gave them; what is no shape or track in them stays, whatever its id."""
        self._patch(job_id, annotations, AnnotationUpdateAction.DELETE)

    def _patch(self, job_id: int, annotations: Annotations, action: AnnotationUpdateAction) -> None:
        with _plainly(self.host, f"job {job_id}"):
            patch = self._client.api_client.jobs_api.partial_update_annotations
            body = models.PatchedLabeledDataRequest(**annotations)
            self._answer(patch, action.value, job_id, patched_labeled_data_request=body)

    def _json(self, retrieve: Callable[..., Any], id: int) -> Any:
        """The JSON itself: the SDK's models refuse what older and newer servers leave out or add."""
        return json.loads(self._answer(retrieve, id))

    def _answer(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> bytes:
        data: bytes = method(*args, **kwargs, _parse_response=False, _request_timeout=TIMEOUT_S)[1].data
        return data

    def _list(self, endpoint: Any, **filters: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = get_paginated_collection(
            endpoint, return_json=True, _parse_response=False, _request_timeout=TIMEOUT_S, **filters
        )
        return found


@contextmanager
def connect(login: Login) -> Iterator[Cvat]:
    """A server, logged in to; raises as `Cvat` does."""
    parameters = ClientAuthParameters(
        server_host=login.server_host,
        auth=get_auth_factory(login.auth) if login.auth else None,
        profile=login.profile,
        organization=login.organization,
        insecure=login.insecure,
    )
    with _plainly(login.server_host or "the default address", "the login"):
        client = make_client_from_cli(parameters)
    with client:
        with _plainly(client.api_map.host, "this user"):  # a wrong address shows here, and is not waited for
            client.api_client.users_api.retrieve_self(_parse_response=False, _request_timeout=TIMEOUT_S)
        yield Cvat(client)


def _frames(job: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[int, ...]:
    """Those of a job that are not deleted, as annotations number them.

    Only the chosen frames of ground-truth jobs are numbered as the data are, of which a task may take every nth.
    """
    step = int(found[1]) if (found := re.search(r"step\s*=\s*(\d+)", meta.get("frame_filter") or "")) else 1
    first = meta.get("start_frame") or 0  # of the job, among the data
    chosen = [job["start_frame"] + (frame - first) // step for frame in meta.get("included_frames") or ()]
    there = set(chosen or range(job["start_frame"], job["stop_frame"] + 1))
    return tuple(sorted(there - set(meta.get("deleted_frames") or ())))


def _shape(shape: Mapping[str, Any], needed: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    drawn = ("points",) if shape["type"] in SHAPE_TYPES else ()
    return _annotation(shape, ("frame", "type", *drawn, *needed), {**SHAPE_DEFAULTS, **defaults})


def _track(track: Mapping[str, Any]) -> dict[str, Any]:
    keyframes = [_shape(keyframe, (), {}) for keyframe in track["shapes"]]
    return {**_annotation(track, ("id", "label_id"), DEFAULTS), "shapes": keyframes}


def _annotation(annotation: Mapping[str, Any], needed: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """It with all its fields; LookupError where it lacks one of those that are needed."""
    given = {name: value for name, value in annotation.items() if value is not None}
    if missing := [name for name in needed if name not in given]:
        raise LookupError(missing)
    attributes = [{"spec_id": each["spec_id"], "value": each["value"]} for each in given.get("attributes", ())]
    return {**defaults, **given, "attributes": attributes}


def _label(label: dict[str, Any]) -> Label:
    mutable = frozenset(attribute["id"] for attribute in label["attributes"] if attribute["mutable"])
    defaults = {attribute["id"]: attribute.get("default_value") or "" for attribute in label["attributes"]}
    return Label(label["id"], label["name"], label.get("type") or "any", mutable, defaults)


@contextmanager
def _plainly(host: str, what: str) -> Iterator[None]:
    """Turns all that the SDK raises about `what` on a server into one sentence."""
    try:
        yield
    except ApiException as error:
        raise _refusal(host, what, error) from error
    except urllib3.exceptions.HTTPError as error:
        reason = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(getattr(error, "reason", None) or error))
        raise ConnectionError(f"CVAT at {host} cannot be reached ({reason}).") from error
    except CvatSdkException as error:
        raise ValueError(f"{str(error).rstrip('.')}.") from error
    except EOFError as error:
        raise ValueError("CVAT wants a password: give --auth USER:PASSWORD, or set CVAT_ACCESS_TOKEN.") from error
    except (OpenApiException, ValueError, LookupError, AttributeError, TypeError, AssertionError) as error:
        # What the SDK stumbles over where the answer is not CVAT's.
        raise ValueError(f"What answers at {host} about {what} is no CVAT that this command knows.") from error


def _refusal(host: str, what: str, error: ApiException) -> Exception:
    if error.status in RETRYABLE:
        after = seconds_to_wait((error.headers or {}).get("Retry-After"))
        return BusyError(f"CVAT at {host} answers {error.status} ({error.reason}).", after)
    if error.status == 404:
        return ValueError(f"CVAT at {host} has no {what}, or does not show it to this user.")
    return ValueError(f"CVAT at {host} refuses {what} with {error.status}: {_detail(error.body, error.reason)}")


def _detail(body: str | bytes | None, reason: str) -> str:
    """CVAT's own words: {"detail": "..."}, lists of sentences by field, or plain text; the status's where a page for
    browsers comes instead, or nothing."""
    words: Any = body.decode(errors="replace") if isinstance(body, bytes) else body or ""
    with suppress(ValueError):
        words = json.loads(words)
    while isinstance(words, dict | list) and words:
        words = next(iter(words.values())) if isinstance(words, dict) else words[0]
    text = " ".join(str(words).split())
    return f"{reason if not text or text.startswith('<') else text[:200].rstrip('.')}."
