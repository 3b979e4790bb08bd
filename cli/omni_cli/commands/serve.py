"""`omni-edge serve`: the model for OpenAI's clients."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from omni_cli import options
from omni_cli.default_bundle import resolve_bundle
from omni_cli.first_load import NoPrepare, prepare_at_first
from omni_edge import OmniEdge
from omni_edge.errors import ServerError, UsageError
from omni_edge.serve.settings import Limits, ServeSettings, is_loopback, read_api_key
from omni_edge.serve.tls import self_signed, tls_context

_LIMITS = Limits()


def serve(
    *,
    model: options.Model = None,
    host: Annotated[str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65_535, help="Port; 0: a free one.")] = 8080,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File with the key that clients send; required for other addresses than loopback.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Another name by which clients call it. Repeatable."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", metavar="ORIGIN", help="Origin of pages that may use it. Repeatable."),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option("--tls-cert", metavar="FILE", help="Certificate (PEM): serve https.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", metavar="FILE", help="Its key (PEM).")] = None,
    tls: Annotated[
        str | None,
        typer.Option("--tls", metavar="self-signed", help="Make a certificate, and say its fingerprint."),
    ] = None,
    waiting: Annotated[
        int, typer.Option("--max-waiting", metavar="N", min=0, help="Replies that may wait for the active one.")
    ] = _LIMITS.waiting,
    sessions: Annotated[
        int, typer.Option("--max-sessions", metavar="N", min=1, help="Realtime sessions that may be open.")
    ] = _LIMITS.sessions,
    wyoming: Annotated[
        int | None,
        typer.Option(
            "--wyoming", metavar="PORT", min=0, max=65_535, help="Serve Wyoming clients (Home Assistant) too."
        ),
    ] = None,
    languages: Annotated[
        list[str] | None,
        typer.Option("--language", metavar="CODE", help="Language that Wyoming clients see. Repeatable. Default: en."),
    ] = None,
    smart_turn: Annotated[
        Path | None,
        typer.Option(
            "--smart-turn", metavar="FILE", help="Smart Turn v3.2's ONNX file, by which semantic_vad judges sentences."
        ),
    ] = None,
    context_size: Annotated[
        int | None,
        typer.Option("--context", metavar="N", min=1, help="Positions that one conversation may fill."),
    ] = None,
    threads: options.Threads = None,
    device: options.Device = "cpu",
    low_memory: options.LowMemory = False,
    no_prepare: NoPrepare = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Log every request: its path, status and time, never its text.")
    ] = False,
    debug: options.Debug = False,
) -> None:
    """Serve the model to OpenAI's clients, until Ctrl-C.

    Chat completions with text, sound, pictures and videos, Realtime conversations, speech and transcriptions. One reply
    is computed at a time; others wait.
    """
    settings = ServeSettings(
        host=host,
        port=port,
        api_key=None if api_key_file is None else read_api_key(api_key_file),
        host_names=tuple(allow_host or ()),
        origins=tuple(allow_origin or ()),
        limits=Limits(waiting=waiting, sessions=sessions),
        wyoming_port=wyoming,
        languages=tuple(languages or ServeSettings.languages),
        context=context_size,
        smart_turn=smart_turn,
    )
    certificate = _certificate(settings, tls_cert, tls_key, tls)
    _log_to_stderr(verbose=verbose, debug=debug)
    folder = resolve_bundle(model)
    prepare_at_first(folder, wanted=not no_prepare, device=device)
    engine = OmniEdge.load(folder, threads=threads, low_memory=low_memory, device=device)
    asyncio.run(_serve(engine, settings, certificate))


async def _serve(engine: OmniEdge, settings: ServeSettings, certificate: ssl.SSLContext | None) -> None:
    try:
        from omni_edge.serve.server import running_server  # noqa: PLC0415 -- an extra
        from omni_edge.serve.wyoming.announcement import can_announce  # noqa: PLC0415
    except ImportError as error:
        raise ServerError(f"The server is not installed ({error}): pip install 'omni-edge[serve]'") from None
    async with running_server(engine, settings, certificate) as (address, port):
        typer.echo(f"Serving on {address}; Ctrl-C ends it.", err=True)
        if port is not None:
            typer.echo(f"Wyoming clients are served on port {port} of {settings.host}; they need no key.", err=True)
            if not is_loopback(settings.host) and not can_announce():
                typer.echo("Home Assistant does not find it by itself: pip install 'omni-edge[announce]'.", err=True)
        ended = asyncio.Event()
        # Windows has no such handlers. systemd ends a service by this signal.
        with suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()


def _certificate(
    settings: ServeSettings, certificate: Path | None, key: Path | None, tls: str | None
) -> ssl.SSLContext | None:
    """What the options ask for; None: no encryption."""
    if tls not in (None, "self-signed"):
        raise UsageError(f"--tls is {tls!r}; it must be self-signed. --tls-cert and --tls-key name your own files.")
    if tls is not None and (certificate or key):
        raise UsageError("--tls makes a certificate, and --tls-cert names one. Leave one of them out.")
    if (certificate is None) != (key is None):
        raise UsageError("A certificate needs its key: give both --tls-cert and --tls-key.")
    if tls is not None:
        certificate, key, fingerprint = self_signed(settings.host, settings.host_names)
        typer.echo(f"The certificate's SHA-256 fingerprint is {fingerprint}", err=True)
    return tls_context(certificate, key) if certificate is not None and key is not None else None


def _log_to_stderr(*, verbose: bool, debug: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("omni_edge.serve")
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING)
