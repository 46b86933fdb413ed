"""`maskbank serve`: the function as a server that CVAT takes for Nuclio."""

import argparse

from maskbank.cli.options import Commands, add_model_options, as_count, environment_with


def add_commands(commands: Commands) -> None:
    """Adds `serve`."""
    serve = commands.add_parser(
        "serve",
        help="answer CVAT without Nuclio and Docker",
        description="Runs the function as a server that CVAT takes for Nuclio. Without a token, anyone who can reach "
        "the port can use it, so keep it on a private network.",
    )
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=_port, default=8070, help="0 takes a free one (default: %(default)s)")
    serve.add_argument(
        "--workers",
        type=as_count,
        metavar="N",
        help="processes, each with the network in memory and its share of the cores (default: one for two cores, but "
        "two on a machine with two, and at most eight)",
    )
    serve.add_argument(
        "--token",
        help="secret that requests must have in the header X-MaskBank-Token; other users of this machine see it here, "
        "so rather set MASKBANK_TOKEN (CVAT sends none: a proxy between CVAT and this server has to add it)",
    )
    serve.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name by which clients call this server; its addresses, localhost, host.docker.internal and this "
        "machine's name need not be given",
    )
    add_model_options(serve)
    serve.set_defaults(run=_serve, extra="serve")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")
    return int(text)


def _serve(options: argparse.Namespace) -> None:
    from maskbank.serving.server import serve

    if options.token == "":
        raise ValueError("The token is empty, so anybody could use the function: give one, or leave out --token.")
    environment = environment_with(options) | ({"MASKBANK_TOKEN": options.token} if options.token else {})
    serve(options.host, options.port, options.workers, environment, options.allow_host)
