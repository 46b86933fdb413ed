"""`maskbank serve`: the real server in a process of its own, asked as CVAT asks Nuclio."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib import error, parse, request

import numpy as np
import pytest
import support
import yaml
from support import GOLDEN_KOI, RED_KOI, TURTLE, decoded, disjoint, jaccard, jpeg, mask_shape, one_sentence, true_mask

from maskbank import cli
from maskbank.jobs.function import deployed
from maskbank.serving.server import default_workers

FUNCTION_YAML = Path(__file__).parents[1] / "function.yaml"
ANIMALS = (RED_KOI, GOLDEN_KOI, TURTLE)
CVAT = {  # headers of CVAT's server
    "x-nuclio-project-name": "cvat",
    "x-nuclio-function-namespace": "nuclio",
    "x-nuclio-invoke-via": "domain-name",
    "X-Nuclio-Invoke-Timeout": "120s",
}


def environment(**settings: object) -> dict[str, str]:
    """Of a server, with nothing of the environment that the tests run in."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MASKBANK_", "CVAT_", "OMP_", "MALLOC_"))}
    small = {"MASKBANK_DEVICE": "cpu", "MASKBANK_SIZE": "128", "MASKBANK_ADAPT_SECONDS": "0"}
    return kept | small | {name: str(value) for name, value in settings.items()}


class Server:
    """`maskbank serve` on a free port; `prelude` is run before it, in its process."""

    def __init__(self, *arguments: object, prelude: str = "", **settings: object):
        program = ["-c", f"{prelude}\nfrom maskbank.cli import main\nraise SystemExit(main())"]
        self.process = subprocess.Popen(
            [sys.executable, *(program if prelude else ["-m", "maskbank.cli"]), "serve", "--port", "0"]
            + [str(argument) for argument in arguments],
            env=environment(**settings),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a group of its own, to send signals to
        )
        self.lines: list[str] = []
        self.url = ""
        self._served = Event()
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))
            served = re.search(r"is served at (http://\S+)", line)
            if served:
                self.url = served[1]
                self._served.set()
        self._served.set()

    def wait_until_served(self) -> "Server":
        assert self._served.wait(60)
        assert self.url, self.lines
        return self

    def end(self, send: Callable[[], object] = lambda: None) -> int:
        """The exit status, once all lines are read."""
        send()
        status = self.process.wait(180)  # a worker that is just starting is waited for
        self._reader.join()
        return status

    def clean_up(self) -> None:
        for worker in self.workers():
            signal_if_there(worker, signal.SIGCONT)
        self.process.kill()
        self.end()
        self.process.stderr.close()

    def workers(self) -> list[int]:
        """The process ids of the workers."""
        return [pid for pid in children(self.process.pid) if b"spawn_main" in command_line(pid)]

    def ask(
        self, method: str, path: str, body: bytes | None = None, content_type: str = "application/json", **headers: str
    ) -> tuple[int, bytes]:
        """Status and body of a response."""
        named = {name.replace("_", "-"): value for name, value in headers.items()} | {"Content-Type": content_type}
        try:
            with request.urlopen(request.Request(self.url + path, body, named, method=method), timeout=60) as response:
                return response.status, response.read()
        except error.HTTPError as refused:
            return refused.code, refused.read()

    def post(self, content: object, path: str = "/", **headers: str) -> Any:
        """The reply to a good request."""
        status, body = self.ask("POST", path, json.dumps(content).encode(), **headers)
        assert status == 200, body
        return json.loads(body)

    def track(self, index: int, states: list) -> tuple[list, list]:
        reply = self.post(support.request(jpeg(index), [None] * len(states), states))
        return reply["shapes"], reply["states"]

    def start(self) -> list:
        """The states of the three animals, outlined on the first frame."""
        return self.post(support.request(jpeg(0), outlines(), []))["states"]

    def frames(self) -> int:
        """How many the workers have answered."""
        return json.loads(self.ask("GET", "/")[1])["frames"]

    def connect(self) -> socket.socket:
        place = parse.urlsplit(self.url)
        return socket.create_connection((place.hostname, place.port), timeout=60)


def command_line(pid: int) -> bytes:
    """Empty for a process that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # gone meanwhile
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return sorted(found)


def signal_if_there(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def until(true: Callable[[], bool]) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("It never came true.")


def outlines() -> list[dict]:
    return [mask_shape(true_mask(0, animal)) for animal in ANIMALS]


class Call:
    """A POST whose body the server has asked for, so that it is one of the running requests."""

    def __init__(self, server: Server, content: object):
        body = json.dumps(content).encode()
        self.connection = server.connect()
        self.connection.sendall(
            b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body)
        )
        assert self.connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        self.connection.sendall(body)

    def answer(self) -> tuple[int, bytes]:
        return read_response(self.connection)


def read_response(connection: socket.socket) -> tuple[int, bytes]:
    with connection, connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers = dict(line.lower().strip().split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
        return status, stream.read(int(headers[b"content-length"]))


@pytest.fixture(scope="module")
def serving() -> Iterator[Callable[..., Server]]:
    """Starts servers; those that are left are ended."""
    servers = []

    def serving(*arguments: object, **settings: object) -> Server:
        servers.append(Server(*arguments, **settings))
        return servers[-1]

    try:
        yield serving
    finally:
        for server in servers:
            server.clean_up()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"file://{tmp_path_factory.mktemp('store')}"


@pytest.fixture
def free_store(tmp_path: Path) -> str:
    return f"file://{tmp_path / 'store'}"


@pytest.fixture(scope="module")
def two_workers(serving: Callable[..., Server], store: str) -> Server:
    return serving("--workers", 2, MASKBANK_STORE=store).wait_until_served()


@pytest.fixture
def server(two_workers: Server) -> Iterator[Server]:
    """With two workers, none of them stopped."""
    yield two_workers
    for worker in two_workers.workers():
        signal_if_there(worker, signal.SIGCONT)


# ---- as CVAT asks ----


def test_cvat_finds_the_function(server: Server) -> None:
    """What CVAT's lambda manager reads, with its headers."""
    status, body = server.ask("GET", "/api/functions", **CVAT)
    cards = json.loads(body)
    assert set(cards) == {"maskbank", "maskbank-outline"}
    described = yaml.safe_load(FUNCTION_YAML.read_text())
    name, card = "maskbank", cards["maskbank"]
    assert status == 200
    assert name == card["metadata"]["name"] == described["metadata"]["name"]
    assert card["metadata"]["annotations"] == described["metadata"]["annotations"]
    assert card["metadata"]["annotations"]["name"] == "AI tracker"
    assert card["spec"]["description"] == described["spec"]["description"]
    assert card["status"] == {"state": "ready", "httpPort": parse.urlsplit(server.url).port}
    status, body = server.ask("GET", f"/api/functions/{name}", **CVAT)
    assert (status, json.loads(body)) == (200, card)


def test_cvat_finds_it_as_an_interactor_too(server: Server) -> None:
    status, body = server.ask("GET", "/api/functions/maskbank-outline", **CVAT)
    card, described = json.loads(body), yaml.safe_load((FUNCTION_YAML.parent / "interactor.yaml").read_text())
    assert status == 200
    assert card == described | {"status": {"state": "ready", "httpPort": parse.urlsplit(server.url).port}}
    turtle = true_mask(0, TURTLE)
    box = support.box_of(turtle)
    content = {"image": base64.b64encode(jpeg(0)).decode(), "pos_points": [], "neg_points": []}
    content["obj_bbox"] = [box[:2], box[2:]]
    named = CVAT | {"x-nuclio-function-name": "maskbank-outline", "x-nuclio-path": "/"}
    reply = server.post(content, "/api/function_invocations", **named)
    left, top, right, bottom = reply["bounds"]
    found = np.zeros_like(turtle)
    found[top : bottom + 1, left : right + 1] = reply["mask"]
    assert jaccard(found, turtle) > 0.8
    assert server.post(content) == reply


def test_cvat_tracks_through_the_dashboard_or_directly(server: Server) -> None:
    named = CVAT | {"x-nuclio-function-name": "maskbank", "x-nuclio-path": "/"}
    path = "/api/function_invocations"
    states = server.post(support.request(jpeg(0), outlines(), []), path, **named)["states"]
    reply = server.post(support.request(jpeg(1), [None] * 3, states), path, **named)
    masks = [decoded(shape) for shape in reply["shapes"]]
    assert min(jaccard(mask, true_mask(1, animal)) for mask, animal in zip(masks, ANIMALS, strict=True)) > 0.6
    assert disjoint(masks)
    assert server.post(support.request(jpeg(1), [None] * 3, states)) == reply


@pytest.mark.parametrize("via", ["itself", "the dashboard"])
def test_propagate(server: Server, via: str) -> None:
    headers = {"x-nuclio-function-name": "maskbank", "x-nuclio-path": "propagate"}
    path = "/propagate" if via == "itself" else "/api/function_invocations"
    images = [{"image": base64.b64encode(jpeg(index)).decode()} for index in range(3)]
    images[0]["shapes"] = outlines()
    reply = server.post({"frames": images}, path, **({} if via == "itself" else CVAT | headers))
    turtle = [jaccard(decoded(frame["shapes"][2]), true_mask(i, TURTLE)) for i, frame in enumerate(reply["frames"])]
    assert len(turtle) == 3 and min(turtle) > 0.6


def test_it_says_how_it_is(server: Server) -> None:
    for path in ("/", "/healthz"):
        status, body = server.ask("GET", path)
        assert status == 200 and json.loads(body)["status"] == "ok"
    status, body = server.ask("GET", "/metrics")
    assert status == 200 and b"maskbank_frames_total" in body
    report = json.loads(server.ask("GET", "/")[1])
    assert report["workers"] == 2 and report["store_reachable"] == 1
    assert server.ask("GET", "/secret") == (404, b"There is / (or /healthz) and /metrics to get.")


def test_unknown_functions_are_refused_as_nuclio_does(server: Server) -> None:
    assert server.ask("GET", "/api/functions/sam") == (404, b'{"error":"Function not found"}')
    invocations = "/api/function_invocations"
    assert server.ask("POST", invocations, b"{}") == (400, b'{"error":"Function name must be provided"}')
    status, body = server.ask("POST", invocations, b"{}", **CVAT, x_nuclio_function_name="sam")
    assert status == 404
    assert json.loads(body) == {"error": "Failed to invoke function: Function not found: sam @ nuclio"}


def test_what_the_handler_refuses_is_passed_on(server: Server) -> None:
    state = server.start()[0]
    for content, expected in (
        (support.request(jpeg(1), [], []), 400),
        (support.request(jpeg(1), [None], [state | {"bank": "x" * 22}]), 410),
        (support.request(jpeg(1), [{"type": "polygon", "points": [1] * 30_000}], []), 413),
    ):
        status, body = server.ask("POST", "/", json.dumps(content).encode())
        assert status == expected and one_sentence(body.decode())


@pytest.mark.parametrize("content_type", ["text/plain", "application/json; charset=utf-8", "application/x-tar", ""])
def test_the_content_type_does_not_matter(server: Server, content_type: str) -> None:
    body = json.dumps(support.request(jpeg(0), outlines(), [])).encode()
    status, reply = server.ask("POST", "/", body, content_type)
    assert status == 200 and len(json.loads(reply)["states"]) == 3


# ---- several workers ----


def test_any_worker_answers_any_frame(server: Server) -> None:
    """Two jobs at the same time, so that both workers are at work and a job goes from one to the other."""
    frames = 6

    def job() -> list[list]:
        states, shapes = server.start(), []
        for index in range(1, frames):
            found, states = server.track(index, states)
            shapes.append(found)
        return shapes

    before = server.frames()
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: job(), range(2))
    assert one == other
    assert jaccard(decoded(one[-1][2]), true_mask(frames - 1, TURTLE)) > 0.6
    assert server.frames() - before == 2 * frames  # of all workers


def test_a_request_goes_to_an_idle_worker(server: Server) -> None:
    """And the server says how it is while all of them work."""
    report, metrics = server.ask("GET", "/healthz"), server.ask("GET", "/metrics")
    first, second = workers = server.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    calls = [Call(server, support.request(jpeg(0), outlines(), [])) for _ in workers]
    time.sleep(0.2)  # until they are with the workers
    assert server.ask("GET", "/healthz") == report
    assert server.ask("GET", "/metrics") == metrics
    os.kill(first, signal.SIGCONT)
    server.start()  # would hang behind the second one
    server.start()
    os.kill(second, signal.SIGCONT)
    assert [call.answer()[0] for call in calls] == [200, 200]


def test_a_worker_that_dies_is_replaced(server: Server) -> None:
    states = server.start()
    before = server.workers()
    for worker in before:
        os.kill(worker, signal.SIGKILL)
    masks = [decoded(shape) for shape in server.track(1, states)[0]]
    assert jaccard(masks[2], true_mask(1, TURTLE)) > 0.6
    assert len(set(server.workers()) - set(before)) == 1
    server.start()  # the other one is replaced when it is needed
    until(lambda: json.loads(server.ask("GET", "/")[1])["workers"] == len(server.workers()))


def test_a_request_outlives_its_worker(server: Server) -> None:
    states = server.start()
    expected = server.track(1, states)
    for worker in server.workers():
        os.kill(worker, signal.SIGSTOP)
    call = Call(server, support.request(jpeg(1), [None] * 3, states))
    time.sleep(0.2)  # until it is with a worker
    for worker in server.workers():
        os.kill(worker, signal.SIGKILL)
    status, body = call.answer()
    assert status == 200
    assert json.loads(body) == {"shapes": expected[0], "states": expected[1]}


def test_workers_get_their_share_of_the_machine(server: Server) -> None:
    described = yaml.safe_load(FUNCTION_YAML.read_text())["spec"]["env"]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    for worker in server.workers():
        variables = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
        assert f"OMP_NUM_THREADS={share}".encode() in variables
        assert {f"{each['name']}={each['value']}".encode() for each in described}.issubset(variables)


# ---- limits ----


@pytest.fixture(scope="module")
def strict(serving: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory, store: str) -> Server:
    """One worker, small limits."""
    described = yaml.safe_load(FUNCTION_YAML.read_text())
    [trigger] = described["spec"]["triggers"].values()
    trigger["attributes"]["maxRequestBodySize"] = 1_000_000
    trigger["workerAvailabilityTimeoutMilliseconds"] = 3000
    described["spec"]["eventTimeout"] = "8s"
    described["spec"]["env"] = [{"name": "OMP_NUM_THREADS", "value": "1"}]
    changed = tmp_path_factory.mktemp("strict") / "function.yaml"
    changed.write_text(yaml.safe_dump(described))
    prelude = (
        "from pathlib import Path\nfrom maskbank.function import spec\n"
        "from maskbank.serving import bodies, connections\nbodies.WITHIN_S = connections.REQUEST_WITHIN_S = 2\n"
        f"spec.read_function_spec.__defaults__ = (Path({str(changed)!r}),)"
    )
    return serving("--workers", 1, prelude=prelude, MASKBANK_STORE=store).wait_until_served()


TOO_LARGE = (413, b"The request is larger than the 1000000 bytes that are allowed.")


def test_a_large_body_of_unknown_length_is_refused(strict: Server) -> None:
    connection = strict.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(11):
        connection.sendall(b"%x\r\n%s\r\n" % (100_000, b" " * 100_000))
    connection.sendall(b"0\r\n\r\n")
    assert read_response(connection) == TOO_LARGE


def test_a_large_body_is_refused_and_not_kept(strict: Server) -> None:
    before = peak_memory(strict)
    body = b" " * 30_000_000
    assert strict.ask("POST", "/", body) == TOO_LARGE
    assert strict.ask("POST", "/api/function_invocations", body, x_nuclio_function_name="maskbank") == TOO_LARGE
    assert peak_memory(strict) - before < 10_000_000


def peak_memory(server: Server) -> int:
    """Bytes of the process that reads requests."""
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{server.process.pid}/status").read_text())
    return int(kilobytes) << 10


def test_a_body_of_unknown_length_is_read(strict: Server) -> None:
    body = json.dumps(support.request(jpeg(0), outlines(), [])).encode()
    connection = strict.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.sendall(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert read_response(connection)[0] == 200


@pytest.mark.parametrize("length", ["5", "0", ""])
def test_a_body_that_is_longer_than_it_says_is_cut(strict: Server, length: str) -> None:
    connection = strict.connect()
    header = f"Content-Length: {length}\r\n" if length else ""
    body = json.dumps(support.request(jpeg(0), outlines(), [])).encode()
    connection.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n".encode() + body[:100])
    status, reply = read_response(connection)
    assert (status, reply) == (400, b"The request is not JSON.")


@pytest.mark.parametrize("length", ["-5", "many", "5, 6"])
def test_a_length_that_is_none_is_refused(strict: Server, length: str) -> None:
    connection = strict.connect()
    connection.sendall(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{{}}".encode())
    assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
    connection.close()


def test_a_slow_body_is_not_waited_for_for_ever(strict: Server) -> None:
    connection = strict.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    status, reply = read_response(connection)
    assert status == 408 and one_sentence(reply.decode())


def test_who_goes_away_harms_nobody(strict: Server) -> None:
    before = len(strict.lines)
    connection = strict.connect()
    connection.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
    connection.close()
    call = Call(strict, support.request(jpeg(0), outlines(), []))
    call.connection.close()
    strict.start()
    assert not [line for line in strict.lines[before:] if "Traceback" in line or "Exception" in line]


def test_nothing_is_tracked_for_who_went_away(strict: Server) -> None:
    before = strict.frames()
    [worker] = strict.workers()
    os.kill(worker, signal.SIGSTOP)
    call, gone = (Call(strict, support.request(jpeg(0), outlines(), [])) for _ in range(2))
    gone.connection.close()
    os.kill(worker, signal.SIGCONT)
    assert call.answer()[0] == 200
    strict.start()
    assert strict.frames() == before + 2


def test_a_worker_that_hangs_is_replaced(strict: Server) -> None:
    """After what function.yaml gives a request, and with Nuclio's status for it."""
    states = strict.start()
    [worker] = strict.workers()
    os.kill(worker, signal.SIGSTOP)
    status, body = Call(strict, support.request(jpeg(1), [None] * 3, states)).answer()
    assert (status, body) == (408, b"The tracker did not answer in time; try again.")
    assert len(strict.track(1, states)[0]) == 3
    assert worker not in strict.workers()


def test_a_connection_without_a_request_is_closed(strict: Server) -> None:
    """Nothing is sent; a request trickles in; nothing follows an answer."""
    silent, slow, idle = strict.connect(), strict.connect(), strict.connect()
    idle.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    until(lambda: is_closed_though_it_sends(slow))
    assert silent.recv(100) == b""
    with idle.makefile("rb") as stream:
        assert stream.read().startswith(b"HTTP/1.1 200 ")  # and then the end
    for connection in (silent, slow, idle):
        connection.close()


def is_closed_though_it_sends(connection: socket.socket) -> bool:
    try:
        connection.sendall(b"G")
    except OSError:
        return True
    return False


def test_unfinished_bodies_do_not_fill_the_memory(strict: Server) -> None:
    """Of more than there is room for, some are refused; the others are read once that happened."""
    before = peak_memory(strict)
    size = 900_000
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    connections = [strict.connect() for _ in range(40)]
    for connection in connections:
        connection.sendall(head + b" " * (size - 1))
    time.sleep(0.5)
    for connection in connections:
        connection.sendall(b" ")
    answers = [read_response(connection) for connection in connections]
    assert {status for status, _ in answers} == {400, 503}  # it is no JSON
    assert (503, b"The tracker is being sent too much at once; try again.") in answers
    assert peak_memory(strict) - before < 40 * size  # all of them, and what reading them takes
    strict.start()


def test_nobody_waits_for_a_busy_worker_for_ever(strict: Server) -> None:
    [worker] = strict.workers()
    os.kill(worker, signal.SIGSTOP)
    call = Call(strict, support.request(jpeg(0), outlines(), []))
    status, body = strict.ask("POST", "/", b"{}")
    assert status == 503 and one_sentence(body.decode().replace(";", ","))
    os.kill(worker, signal.SIGCONT)
    assert call.answer()[0] == 200


# ---- who is answered ----


@pytest.mark.parametrize(
    "host", ["localhost:8070", "127.0.0.1", "[::1]:8070", "10.1.2.3:80", "host.docker.internal:8070", "LocalHost"]
)
def test_names_of_the_server(server: Server, host: str) -> None:
    assert server.ask("GET", "/", Host=host)[0] == 200
    assert server.ask("GET", "/", Origin=f"http://{host}")[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8070", "localhost.evil.example", "[::1", "127.0.0.1.nip.io"]
)
def test_a_foreign_name_that_was_made_to_point_here(server: Server, host: str) -> None:
    for method, path in (("GET", "/"), ("GET", "/api/functions"), ("POST", "/"), ("POST", "/api/function_invocations")):
        status, body = server.ask(method, path, b"{}" if method == "POST" else None, Host=host)
        assert status == 403 and one_sentence(body.decode().replace(";", ","))


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://maskbank.example:8070"])
def test_a_page_of_another_server(server: Server, origin: str) -> None:
    body = json.dumps(support.request(jpeg(0), outlines(), [])).encode()
    status, reply = server.ask("POST", "/", body, "text/plain", Origin=origin)
    assert status == 403 and one_sentence(reply.decode())


def test_a_name_that_was_allowed_and_a_token(serving: Callable[..., Server], free_store: str) -> None:
    options = ("--workers", 1, "--allow-host", "tracker.example", "--token", "s3cret")
    server = serving(*options, MASKBANK_STORE=free_store).wait_until_served()
    body = json.dumps(support.request(jpeg(0), outlines(), [])).encode()
    unasked = (401, b"The tracker wants its token in the header X-MaskBank-Token.")
    assert server.ask("GET", "/api/functions", Host="tracker.example:8070")[0] == 200
    assert server.ask("POST", "/", body) == server.ask("POST", "/", body, X_MaskBank_Token="wrong") == unasked
    named = {"x_nuclio_function_name": "maskbank"}
    assert server.ask("POST", "/api/function_invocations", body, **named) == unasked
    assert server.ask("POST", "/", body, X_MaskBank_Token="s3cret")[0] == 200
    assert server.ask("POST", "/api/function_invocations", body, **named, X_MaskBank_Token="s3cret")[0] == 200
    assert server.ask("GET", "/metrics")[0] == 200
    call = deployed(server.url, "s3cret")
    frame = {"image": base64.b64encode(jpeg(0)).decode(), "shapes": outlines()}
    assert len(call({"frames": [frame]})["states"]) == 3
    with pytest.raises(ValueError, match="answers 401: The tracker wants its token"):
        deployed(server.url)({"frames": [frame]})
    assert "s3cret" not in "".join(server.lines)


# ---- start and stop ----


def test_a_stop_waits_for_what_runs(serving: Callable[..., Server], free_store: str) -> None:
    server = serving("--workers", 1, MASKBANK_STORE=free_store, OMP_NUM_THREADS=1).wait_until_served()
    [worker] = server.workers()
    os.kill(worker, signal.SIGSTOP)
    call = Call(server, support.request(jpeg(0), outlines(), []))
    os.killpg(server.process.pid, signal.SIGTERM)  # as systemd does: to the worker, too
    until(lambda: refuses_connections(server))
    os.kill(worker, signal.SIGCONT)
    status, body = call.answer()
    assert status == 200 and len(json.loads(body)["states"]) == 3
    assert server.end() == 0
    assert len(server.lines) == 3, server.lines  # ready, served, tracked


def refuses_connections(server: Server) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def test_ctrl_c_stops_it(serving: Callable[..., Server], free_store: str) -> None:
    server = serving("--host", "localhost", MASKBANK_STORE=free_store).wait_until_served()
    server.start()
    workers = server.workers()
    assert server.end(lambda: os.killpg(server.process.pid, signal.SIGINT)) == 0
    assert not [line for line in server.lines if not re.search(r"\[info\]|is served at", line)]
    assert not [worker for worker in workers if Path(f"/proc/{worker}").exists()]


def test_it_can_be_stopped_while_it_starts(serving: Callable[..., Server], free_store: str) -> None:
    server = serving(MASKBANK_STORE=free_store)
    until(lambda: bool(server.workers()))
    assert server.end(lambda: os.killpg(server.process.pid, signal.SIGTERM)) == 0
    assert not [line for line in server.lines if "Traceback" in line]


def test_workers_do_not_outlive_a_server_that_is_killed(serving: Callable[..., Server], free_store: str) -> None:
    server = serving(MASKBANK_STORE=free_store).wait_until_served()
    workers = server.workers()
    assert len(workers) == default_workers({"MASKBANK_STORE": free_store})
    server.end(server.process.kill)
    until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))


def test_workers_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [1, 2, 3, 4, 8, 64]
    monkeypatch.setattr("maskbank.function.threads._quotas", lambda *_: [])
    found = []
    for number in there:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, number=number: set(range(number)))
        found.append(default_workers({"MASKBANK_STORE": "file:///banks"}))
        assert default_workers({"MASKBANK_STORE": "memory://"}) == 1
    assert found == [1, 2, 2, 2, 4, 8]


@pytest.mark.parametrize(
    ("arguments", "settings", "sentence"),
    [
        (["--weights", "none.pth"], {}, "MASKBANK_WEIGHTS is 'none.pth', but there is no such file."),
        (
            [],
            {"MASKBANK_STORE": "memory://"},
            "2 workers need a store that they share, but MASKBANK_STORE is 'memory://'; "
            "set it to file:///a/folder or redis://…, or run one worker.",
        ),
        (["--host", "no.such.host.invalid"], {}, None),
    ],
)
def test_it_says_why_it_does_not_start(
    serving: Callable[..., Server], free_store: str, arguments: list, settings: dict, sentence: str | None
) -> None:
    server = serving("--workers", 2, *arguments, **{"MASKBANK_STORE": free_store} | settings)
    assert server.end() == 1
    [line] = [line for line in server.lines if "[info]" not in line]
    if sentence is None:
        assert line.startswith("maskbank: http://no.such.host.invalid:0 cannot be served: ") and line.endswith(".")
    else:
        assert line == f"maskbank: {sentence}"


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["serve", "--port", str(port)]) == 1
    assert capsys.readouterr().err == f"maskbank: http://127.0.0.1:{port} cannot be served: Address already in use.\n"


def test_a_token_that_is_empty_opens_no_door(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["serve", "--port", "0", "--token", ""]) == 1
    assert "The token is empty" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--port", "65536"), ("--port", "http"), ("--workers", "0")])
def test_numbers_that_cannot_be(capsys: pytest.CaptureFixture, option: str, value: str) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["serve", option, value])
    assert stop.value.code == 2 and f"'{value}' is not a " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "package", "command"),
    [
        ("serve", "uvicorn", ["serve"]),
        ("train", "matplotlib", ["train", "--data", "nowhere", "--out", "nowhere", "--steps", "1"]),
        ("cli", "tqdm", ["weights", "fetch", "afb-urr"]),
        ("job", "platformdirs", ["job", "--job", "1"]),
    ],
)
def test_it_says_which_package_is_missing(extra: str, package: str, command: list[str]) -> None:
    missing = f"import sys; sys.modules['{package}'] = None; from maskbank import cli; sys.exit(cli.main({command}))"
    done = subprocess.run([sys.executable, "-c", missing], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"maskbank: this command needs {package}: pip install -e '.[{extra}]'\n"
