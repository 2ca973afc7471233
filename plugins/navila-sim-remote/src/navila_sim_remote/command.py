"""`navila sim-remote` and `navila serve`. Light: what is heavy is imported when a command runs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from navila.cli.loading import deciding_options, loading_options
from navila.cli.sections import SectionedCommand

if TYPE_CHECKING:
    from navila.actions import Decoding

_HOST = click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen at; 0.0.0.0 for every machine."
)


@click.group(name="sim-remote")
def sim_remote() -> None:
    """Simulators in another process, Python or machine.

    \b
    In the Python of habitat (3.8 or newer, with msgpack):
        navila sim-remote server-file navila_sim_server.py         # here; copy it there
        python navila_sim_server.py --habitat data/scene_datasets  # there
    and here:
        navila sim-remote check localhost:54322
    """


@sim_remote.command("server-file", short_help="Write the server, one file for the simulator's own Python.")
@click.argument("path", type=click.Path(path_type=Path), default=Path("navila_sim_server.py"))
def server_file(path: Path) -> None:
    """Write the server, one file for any Python from 3.8 on with msgpack, to PATH; - prints it."""
    from navila.files import write_atomically

    text = Path(__file__).with_name("server.py").read_text(encoding="utf-8")
    if str(path) == "-":
        click.echo(text, nl=False)
        return
    path = path / "navila_sim_server.py" if path.is_dir() else path
    write_atomically(path, text)
    click.echo(f"{path} is written: run it with the simulator's Python, with --help first.")


@sim_remote.command(short_help="Ask a server what it is and what it can do.")
@click.argument("address")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds to wait."
)
def check(address: str, timeout: float) -> None:
    """Ask the simulator server at ADDRESS (host:port) what it is and what it can do."""
    from dataclasses import asdict

    from navila_sim_remote.simulator import RemoteSimulator

    simulator = RemoteSimulator(None, address, load_timeout=timeout, connect_timeout=min(timeout, 2.0))
    try:
        body = ", ".join(f"{key} {value}" for key, value in asdict(simulator.embodiment).items())
        click.echo(f"{simulator.name} at {address}")
        click.echo(f"embodiment: {body}")
        click.echo(f"besides reset and step: {', '.join(sorted(simulator.abilities)) or 'nothing'}")
    finally:
        simulator.close()


@sim_remote.command("serve", short_help="Serve an installed simulator to other machines.")
@click.argument("name")
@click.option("-o", "--option", "options", multiple=True, metavar="KEY=VALUE", help="Option of the simulator.")
@_HOST
@click.option("--port", type=click.IntRange(0, 65535), default=54322, show_default=True, help="0 takes a free one.")
@click.option("--max-clients", type=click.IntRange(min=1), default=64, show_default=True, help="Clients at a time.")
def serve_simulator(name: str, options: tuple[str, ...], host: str, port: int, max_clients: int) -> None:
    """Serve the installed simulator NAME to other machines, until Ctrl-C or SIGTERM.

    Clients get the embodiment they ask for, and share the scenes that are loaded.
    """
    from navila.options import construct, parse_options
    from navila.plugins import default_host

    from navila_sim_remote.serving import BackgroundServer
    from navila_sim_remote.stopping import listening, until_stopped

    component: Any = default_host().registry("simulator").load(name)
    keywords = parse_options(options, "simulator")
    # A wrong option is told now and not to the first client.
    construct(component, keywords, f"simulator {name}").close()

    def make(body: Any) -> Any:
        return construct(component, keywords if body is None else {**keywords, "embodiment": body}, f"simulator {name}")

    with listening(host, port):
        server = BackgroundServer(make, host, port, max_clients)
    until_stopped(server.close, f"The simulator {name} is served at {server.address}")


@click.command(cls=SectionedCommand)
@click.option("-m", "--model", required=True, metavar="PATH", help="Checkpoint folder or Hub id.")
@click.option(
    "--protocol",
    type=click.Choice(("navila-bench",)),
    default="navila-bench",
    show_default=True,
    help="What clients speak: that of NaVILA-Bench's vlm_server.py.",
)
@_HOST
@click.option("--port", type=click.IntRange(0, 65535), default=54321, show_default=True, help="0 takes a free one.")
@deciding_options
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=512, show_default=True, help="Longest answer in tokens."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Clients decided for at once."
)
@loading_options
def serve(
    model: str,
    protocol: str,
    host: str,
    port: int,
    num_frames: int | None,
    template: str | None,
    max_new_tokens: int,
    decoding: Decoding,
    batch_size: int,
    **loading: Any,
) -> None:
    """Let simulators ask a model for its actions over TCP, until Ctrl-C or SIGTERM.

    \b
    NaVILA-Bench's Isaac simulator, in its own environment, takes this in place of its vlm_server.py:
        navila serve -m CHECKPOINT --port 54321
        python scripts/navila_eval.py … --vlm_host localhost --vlm_port 54321

    Several simulators may ask at the same time. A request that cannot be read is told here in one line, and its
    connection closed.
    """
    from navila.cli.asking import load_for

    from navila_sim_remote.stopping import listening, until_stopped

    # A port that is taken is told before minutes go into loading.
    with listening(host, port):
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    loaded = load_for({"model_path": model, "template": template, **loading})

    from navila_sim_remote.bench import ModelServer

    with listening(host, port):
        server = ModelServer(
            loaded,
            host,
            port,
            num_frames=num_frames,
            max_new_tokens=max_new_tokens,
            decoding=decoding,
            batch_size=batch_size,
        )
    until_stopped(server.close, f"{model} answers NaVILA-Bench at {server.address}", work=server.decide)
