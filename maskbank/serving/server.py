"""From a host, a port and a number of workers to a running server."""

import os
import socket
import sys
from collections.abc import Mapping
from contextlib import closing, suppress

import uvicorn

from maskbank.function.spec import read_function_spec
from maskbank.serving.app import build_app
from maskbank.serving.workers import Workers


def serve(host: str, port: int, count: int, environment: Mapping[str, str]) -> None:
    """Serves the function with `count` workers until SIGINT or SIGTERM; then what runs is finished.

    Port 0 takes a free one; environment: the settings. Raises ValueError with one sentence when it cannot start.
    """
    function = read_function_spec()
    share = {"OMP_NUM_THREADS": str(max(1, cores() // count))} if count > 1 else {}
    # Both signals raise KeyboardInterrupt (see `cli.main`): at once, or when uvicorn is done.
    with suppress(KeyboardInterrupt), listen(host, port) as listener:
        port = listener.getsockname()[1]
        with closing(
            Workers(count, function.worker_wait_s, {**function.environment, **share, **environment})
        ) as workers:
            about = workers.wait_until_ready()
            if count > 1 and about["store"] == "memory://":
                raise ValueError(
                    f"{count} workers need a store that they share, but MASKBANK_STORE is 'memory://'; "
                    "set it to file:///a/folder or redis://…, or run one worker."
                )
            title, place = function.metadata["annotations"]["name"], url(host, port)
            what = f"{about['model']} on {about['device']}, banks in {about['store']}"
            print(f"maskbank: {title} is served at {place} ({what}).", file=sys.stderr, flush=True)
            config = uvicorn.Config(
                build_app(function, workers, port),
                http="h11",
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_level="warning",
                access_log=False,  # the function's own log is enough
                server_header=False,
                proxy_headers=False,
            )
            uvicorn.Server(config).run(sockets=[listener])


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


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
