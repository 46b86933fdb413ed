"""The few REST endpoints of a CVAT server that `maskbank job` uses, as CVAT 2.80 answers them, on a local port.

Like CVAT it counts the ids of shapes, tracks and tags apart, fills in the attributes that an annotation lacks, refuses
unknown labels and attributes, and takes a PATCH as a whole or not at all.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from threading import Lock, Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

USER, PASSWORD, TOKEN = "annotator", "secret", "a-personal-access-token"
PAGE = 2  # entries of a list, few enough to need several pages
SHAPE_DEFAULTS = {
    "occluded": False,
    "outside": False,
    "z_order": 0,
    "rotation": 0.0,
    "points": [],
    "group": 0,
    "source": "manual",
    "attributes": [],
    "elements": [],
    "score": 1.0,
}
KEYFRAME_DEFAULTS = {
    k: SHAPE_DEFAULTS[k] for k in ("occluded", "outside", "z_order", "rotation", "points", "attributes")
}
TRACK_DEFAULTS = {k: SHAPE_DEFAULTS[k] for k in ("group", "source", "attributes", "elements")}


class Drop(Exception):
    """The connection breaks instead of an answer."""


class Refused(Exception):
    def __init__(self, status: int, body: object):
        self.status, self.body = status, body


@dataclass
class StoredJob:
    """images: by frame; labels: as GET /api/labels lists them; included: the frames of a ground-truth job, as
    annotations number them; data_start, step: which frames of the data the task has."""

    images: Mapping[int, bytes]
    labels: Sequence[Mapping]
    task: int = 1
    type: str = "annotation"
    dimension: str = "2d"
    deleted: set[int] = field(default_factory=set)
    included: list[int] | None = None
    data_start: int = 0
    step: int = 1
    annotations: dict[str, list[dict]] = field(default_factory=lambda: {"shapes": [], "tracks": [], "tags": []})

    def attributes(self, label_id: int, mutable: bool | None = None) -> dict[int, str]:
        """Default values by id of the attributes that a label has: all, or those that may (not) change in a track."""
        [label] = [label for label in self.labels if label["id"] == label_id] or [None]
        if label is None:
            raise Refused(400, [f"label_id `{label_id}` is invalid"])
        own = [each for each in label["attributes"] if mutable in (None, each["mutable"])]
        return {each["id"]: each["default_value"] for each in own}


@dataclass
class Trap:
    """What happens at one request, the `after`-th that matches: it is done instead of the answer or before it."""

    method: str
    path: str
    action: Callable[[], None]
    after: int = 0
    answered_first: bool = False


class CvatStandIn:
    def __init__(self) -> None:
        self.jobs: dict[int, StoredJob] = {}
        self.requests: list[str] = []  # method, path and query of each, in order
        self.url = ""
        self._traps: list[Trap] = []
        self._ids = {kind: count(1) for kind in ("shapes", "tracks", "tags", "keyframes")}
        self._lock = Lock()

    def once(self, method: str, path: str, action: Callable[[], None], after: int = 0, answered_first=False) -> None:
        """Lets something happen at a request whose path matches: `drop`, `refuse`, or a change of the data."""
        self._traps.append(Trap(method, path, action, after, answered_first))

    def add(self, job_id: int, **annotations: list[dict]) -> None:
        """What annotators drew, in a job."""
        self._create(self.jobs[job_id], annotations)

    def of_source(self, job_id: int, *sources: str) -> dict[str, list[dict]]:
        """A copy of the annotations that came about in these ways."""
        every = self.jobs[job_id].annotations
        return {kind: deepcopy([each for each in own if each["source"] in sources]) for kind, own in every.items()}

    def uploads(self) -> int:
        return sum(request.startswith("PATCH") and "action=create" in request for request in self.requests)

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> tuple[object, dict]:
        """The JSON or the bytes that answer a request, and headers to send along."""
        path, query = urlsplit(target).path, {k: v[0] for k, v in parse_qs(urlsplit(target).query).items()}
        with self._lock:
            self.requests.append(f"{method} {target}")
            trap = self._sprung(method, path)
            if trap and not trap.answered_first:
                trap.action()
            found = self._route(method, path, query, headers, body)
            if trap and trap.answered_first:
                trap.action()
            return found

    def _sprung(self, method: str, path: str) -> Trap | None:
        for trap in self._traps:
            if trap.method == method and re.search(trap.path, path):
                trap.after -= 1
                if trap.after < 0:
                    self._traps.remove(trap)
                    return trap
        return None

    def _route(self, method: str, path: str, query: dict, headers: Mapping, body: bytes) -> tuple[object, dict]:
        if (method, path) == ("POST", "/api/auth/login"):
            given = json.loads(body)
            if (given["username"], given["password"]) != (USER, PASSWORD):
                raise Refused(400, {"non_field_errors": ["Unable to log in with provided credentials."]})
            return {"key": "a-key"}, {"Set-Cookie": "sessionid=a-session; Path=/, csrftoken=a-csrf-token; Path=/"}
        self._authorize(method, headers)
        if path == "/api/users/self":
            return {"id": 1, "username": USER}, {}
        if path == "/api/jobs":
            jobs = [self._job(job_id) for job_id in self.jobs if self.jobs[job_id].task == int(query["task_id"])]
            return self._page(jobs, query), {}
        if path == "/api/labels":
            return self._page(self._stored(query["job_id"]).labels, query), {}
        if found := re.fullmatch(r"/api/tasks/(\d+)", path):
            if not any(job.task == int(found[1]) for job in self.jobs.values()):
                raise Refused(404, {"detail": "No Task matches the given query."})
            return {"id": int(found[1])}, {}
        if found := re.fullmatch(r"/api/jobs/(\d+)(/data|/data/meta|/annotations/)?", path):
            return self._of_job(method, self._stored(found[1]), int(found[1]), found[2], query, body), {}
        raise Refused(404, {"detail": "Not found."})

    def _authorize(self, method: str, headers: Mapping) -> None:
        if headers.get("Authorization") == f"Bearer {TOKEN}":
            return
        if "sessionid=a-session" not in headers.get("Cookie", ""):
            raise Refused(401, {"detail": "Authentication credentials were not provided."})
        if method != "GET" and headers.get("X-CSRFTOKEN") != "a-csrf-token":
            raise Refused(403, {"detail": "CSRF Failed: CSRF token missing."})

    def _stored(self, job_id: str) -> StoredJob:
        if int(job_id) not in self.jobs:
            raise Refused(404, {"detail": "No Job matches the given query."})
        return self.jobs[int(job_id)]

    def _page(self, entries: Sequence, query: Mapping) -> dict:
        start = PAGE * (int(query["page"]) - 1)
        more = f"{self.url}?page={int(query['page']) + 1}" if start + PAGE < len(entries) else None
        return {"count": len(entries), "next": more, "previous": None, "results": entries[start : start + PAGE]}

    def _job(self, job_id: int) -> dict:
        job = self.jobs[job_id]
        return {
            "id": job_id,
            "task_id": job.task,
            "type": job.type,
            "dimension": job.dimension,
            "start_frame": min(job.images),
            "stop_frame": max(job.images),
        }

    def _of_job(self, method: str, job: StoredJob, job_id: int, part: str | None, query: dict, body: bytes) -> object:
        if part is None:
            return self._job(job_id)
        if part == "/data/meta":
            return {
                "deleted_frames": sorted(job.deleted),
                "included_frames": job.included and [job.data_start + frame * job.step for frame in job.included],
                "size": len(job.images),
                "start_frame": job.data_start + min(job.images) * job.step,
                "frame_filter": f"step={job.step}" if job.step > 1 else "",
            }
        if part == "/data":
            assert (query["type"], query["quality"]) == ("frame", "original")
            number = int(query["number"])
            if number not in (job.included or job.images):
                raise Refused(400, {"message": f"Incorrect requested frame number: {number}"})
            return job.images[number]
        if method == "GET":
            return self._read(job)
        given = json.loads(body)
        if query["action"] == "create":
            self._create(job, given)
        elif query["action"] == "delete":
            for kind in ("shapes", "tracks", "tags"):
                ids = {each["id"] for each in given.get(kind, [])}
                job.annotations[kind] = [each for each in job.annotations[kind] if each["id"] not in ids]
        return given

    def _read(self, job: StoredJob) -> dict:
        found = {"version": 0, **deepcopy(job.annotations)}
        for each in [*found["shapes"], *found["tags"]]:
            _fill(each, job.attributes(each["label_id"]))
        for track in found["tracks"]:
            _fill(track, job.attributes(track["label_id"], mutable=False))
            values = job.attributes(track["label_id"], mutable=True)
            for keyframe in track["shapes"]:
                _fill(keyframe, values)
                values = {each["spec_id"]: each["value"] for each in keyframe["attributes"]}
        return found

    def _create(self, job: StoredJob, given: Mapping[str, list[dict]]) -> None:
        made: dict[str, list[dict]] = {"shapes": [], "tracks": [], "tags": []}
        for shape in given.get("shapes", []):
            _check(shape.get("attributes", []), job.attributes(shape["label_id"]))
            made["shapes"].append(SHAPE_DEFAULTS | shape | {"id": next(self._ids["shapes"])})
        for track in given.get("tracks", []):
            _check(track.get("attributes", []), job.attributes(track["label_id"], mutable=False))
            for keyframe in track["shapes"]:
                _check(keyframe.get("attributes", []), job.attributes(track["label_id"], mutable=True))
            keyframes = [KEYFRAME_DEFAULTS | each | {"id": next(self._ids["keyframes"])} for each in track["shapes"]]
            made["tracks"].append(TRACK_DEFAULTS | track | {"id": next(self._ids["tracks"]), "shapes": keyframes})
        for tag in given.get("tags", []):
            made["tags"].append(
                {"group": 0, "source": "manual", "attributes": []} | tag | {"id": next(self._ids["tags"])}
            )
        for kind, own in made.items():
            job.annotations[kind] += deepcopy(own)


def _check(attributes: Sequence[Mapping], known: Mapping[int, str]) -> None:
    for each in attributes:
        if each["spec_id"] not in known:
            raise Refused(400, [f"spec_id `{each['spec_id']}` is invalid"])


def _fill(annotation: dict, defaults: Mapping[int, str]) -> None:
    there = {each["spec_id"] for each in annotation["attributes"]}
    annotation["attributes"] += [{"spec_id": i, "value": value} for i, value in defaults.items() if i not in there]


def drop() -> None:
    raise Drop


def refuse(status: int, body: object = "") -> Callable[[], None]:
    def action() -> None:
        raise Refused(status, body)

    return action


@contextmanager
def cvat_stand_in() -> Iterator[CvatStandIn]:
    """Runs a server on a free port of this machine."""
    cvat = CvatStandIn()

    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # header and body in one go: apart, each answer takes 40 ms longer

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            try:
                status, (found, headers) = 200, cvat.answer(self.command, self.path, self.headers, body)
            except Refused as refused:
                status, found, headers = refused.status, refused.body, {}
            except Drop:
                self.close_connection = True
                self.connection.close()
                return
            content = found if isinstance(found, bytes) else json.dumps(found).encode()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "image/jpeg" if isinstance(found, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_: Any) -> None:
            """The test says what it needs."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        cvat.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield cvat
        finally:
            server.shutdown()
            thread.join()
