"""The HTTP application: routes, errors as JSON, bounded bodies."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from omni_edge.serve.chat import ChatCompletions
from omni_edge.serve.connections import Connections
from omni_edge.serve.faults import RequestError, explain
from omni_edge.serve.guard import Guard, mark
from omni_edge.serve.pages import Page
from omni_edge.serve.realtime.endpoint import Realtime
from omni_edge.serve.service import Service
from omni_edge.serve.spoken_text import SpokenText
from omni_edge.serve.transcription import Transcriptions

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger("omni_edge.serve")


def make_app(service: Service, connections: Connections) -> web.Application:
    """The application of one server."""
    limits = service.settings.limits
    reports = Reports(service)
    guard = Guard(service.settings)
    app = web.Application(
        middlewares=[connections.middleware, reports.middleware, guard.middleware], client_max_size=limits.body
    )
    app.on_response_prepare.append(mark)
    Page().add_to(app)
    facts = Facts(service, connections)
    app.router.add_get("/health", facts.health)
    app.router.add_get("/metrics", facts.metrics)
    app.router.add_get("/v1/models", facts.models)
    app.router.add_get("/v1/models/{name:.+}", facts.model)
    app.router.add_post("/v1/chat/completions", ChatCompletions(service).handle)
    Realtime(service).add_to(app)
    app.router.add_post("/v1/audio/speech", SpokenText(service).handle)
    app.router.add_post("/v1/audio/transcriptions", Transcriptions(service).handle)
    return app


class Reports:
    """Turns errors into JSON and counts responses.

    Args:
        service: what is served.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers a request, whatever happens."""
        began = time.monotonic()
        try:
            response = await handler(request)
        except web.HTTPException as error:
            response = self._refuse(request, _from_http(error))
        except Exception as error:
            if not isinstance(error, RequestError):
                log.error("%s failed: %s", _route(request), _named(error), exc_info=_debugging(error))
            response = self._refuse(request, explain(error))
        self._service.metrics.request(_route(request), response.status)
        seconds = time.monotonic() - began
        log.info("%s %s %d %.0f ms", request.method, _route(request), response.status, 1000 * seconds)
        return response

    @staticmethod
    def _refuse(request: web.Request, error: RequestError) -> web.Response:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        response = web.json_response({"error": error.as_json()}, status=error.status, headers=headers)
        if not request.body_exists or request.content.at_eof():
            return response
        # The rest of a refused body is not waited for.
        response.force_close()
        return response


class Facts:
    """What the server says about itself.

    Args:
        service: what is served.
        connections: its connections.
    """

    def __init__(self, service: Service, connections: Connections) -> None:
        self._service, self._connections = service, connections
        self._began = int(time.time())

    async def health(self, request: web.Request) -> web.Response:
        """Answers 200 where the server runs."""
        return web.json_response({"status": "ok"})

    async def metrics(self, request: web.Request) -> web.Response:
        """Counters in Prometheus' text format."""
        model = self._service.model
        text = self._service.metrics.text(
            active=int(model.busy),
            waiting=model.waiting,
            sessions=self._service.realtime_sessions,
            connections=self._connections.count,
        )
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def models(self, request: web.Request) -> web.Response:
        """The one model."""
        return web.json_response({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        """The one model, by its name."""
        if request.match_info["name"] != self._service.name:
            raise RequestError(
                f"There is no model of that name; this server has {self._service.name!r}.",
                status=HTTPStatus.NOT_FOUND,
                code="model_not_found",
                param="model",
            )
        return web.json_response(self._model())

    def _model(self) -> dict[str, object]:
        return {
            "id": self._service.name,
            "object": "model",
            "created": self._began,
            "owned_by": "omni-edge",
            "voices": self._service.engine.voices,
        }


def _from_http(error: web.HTTPException) -> RequestError:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    return RequestError(
        {404: "There is nothing at this address. docs/serve.md lists the addresses."}.get(error.status, error.reason),
        status=error.status,
        code=codes.get(error.status, "invalid_request"),
    )


def _route(request: web.Request) -> str:
    """The pattern of the request's path: bounded in number, and nothing that a client wrote."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "other"


def _named(error: Exception) -> str:
    """The kind of error and where it was raised; its text may hold a client's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})" if trace is not None else ""
    return f"{type(error).__name__}{place}"


def _debugging(error: Exception) -> Exception | None:
    return error if log.isEnabledFor(logging.DEBUG) else None
