"""From a host, a port and a number of workers to a running server."""

import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import uvicorn

from maskbank.function.health import FOLDER
from maskbank.function.spec import read_function_spec
from maskbank.function.threads import cores, share_of_cores
from maskbank.serving.app import build_app
from maskbank.serving.connections import ImpatientProtocol
from maskbank.serving.door import Door
from maskbank.serving.workers import Workers
from maskbank.settings import read_token
from maskbank.store.opening import store_url

MOST_CONNECTIONS = 500
MOST_WORKERS = 8  # that are started unasked: each takes gigabytes


def serve(host: str, port: int, count: int | None, environment: Mapping[str, str], names: Sequence[str] = ()) -> None:
    """Serves the function until SIGINT or SIGTERM; then what runs is finished.

    Args:
        host: the address to listen at, or its name.
        port: 0 takes a free one.
        count: how many workers; None: `default_workers`.
        environment: the settings.
        names: by which clients call this server, beside those that it has anyway (see `Door`).

    Raises ValueError with one sentence when it cannot start.
    """
    function = read_function_spec()
    token = read_token(environment)
    count = count or default_workers(environment)
    share = {"OMP_NUM_THREADS": str(share_of_cores(count))}
    # Both signals raise KeyboardInterrupt (see `cli.main`): at once, or when uvicorn is done.
    with suppress(KeyboardInterrupt), listen(host, port) as listener, TemporaryDirectory(prefix="maskbank-") as counted:
        port = listener.getsockname()[1]
        chosen = {**function.environment, **share, **environment, FOLDER: counted}
        with closing(Workers(count, function.worker_wait_s, function.event_timeout_s, chosen)) as workers:
            workers.wait_until_ready()
            about = workers.description
            if count > 1 and about["store"] == "memory://":
                raise ValueError(
                    f"{count} workers need a store that they share, but MASKBANK_STORE is 'memory://'; "
                    "set it to file:///a/folder or redis://…, or run one worker."
                )
            title, place = function.metadata["annotations"]["name"], url(host, port)
            what = f"{about['model']} on {about['device']}, banks in {about['store']}"
            who = "1 worker" if count == 1 else f"{count} workers"
            asked = "with a token" if token else "no token"
            print(f"maskbank: {title} is served at {place} ({what}, {who}, {asked}).", file=sys.stderr, flush=True)
            app = build_app(function, workers, port, Path(counted))
            config = uvicorn.Config(
                Door(app, [host, *names], token),
                http=ImpatientProtocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_level="warning",
                access_log=False,  # the function's own log is enough
                server_header=False,
                proxy_headers=False,
                limit_concurrency=MOST_CONNECTIONS,
            )
            uvicorn.Server(config).run(sockets=[listener])


def default_workers(environment: Mapping[str, str]) -> int:
    """One for two cores, but two where there are two cores; one if the store is in its memory."""
    if store_url(environment) == "memory://":
        return 1
    return min(cores(), max(2, cores() // 2), MOST_WORKERS)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections, so that the port is ours before workers start.

    Raises ValueError with one sentence.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise ValueError(f"{url(host, port)} cannot be served: {reason}.") from error


def url(host: str, port: int) -> str:
    """The address http://host:port, an IPv6 host in brackets."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
