"""Errors as clients of OpenAI's interface expect them."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import Any

from omni_edge.errors import ContextFullError, MediaError, OmniEdgeError, ResourceError, ServerError, UsageError


class RequestError(Exception):
    """A request that is refused.

    Attributes:
        status: of HTTP.
        message: what is wrong, and what to do next.
        code: a word for programs.
        param: the field it is about; None: the whole request.
        retry_after: seconds after which to try again; None: never.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int = HTTPStatus.BAD_REQUEST,
        code: str = "invalid_value",
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.retry_after = status, message, code, param, retry_after

    @property
    def kind(self) -> str:
        """The error's type in OpenAI's interface."""
        if self.status == HTTPStatus.TOO_MANY_REQUESTS:
            return "rate_limit_error"
        if self.status == HTTPStatus.UNAUTHORIZED:
            return "authentication_error"
        return "invalid_request_error" if self.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"

    def as_json(self) -> dict[str, Any]:
        """The error object."""
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}


def explain(error: BaseException) -> RequestError:
    """`error` as one that a client may see. What nobody foresaw says nothing about the inside of the server."""
    match error:
        case RequestError():
            return error
        case ContextFullError():
            return RequestError(str(error), code="context_length_exceeded")
        case MediaError():
            return RequestError(str(error), code="invalid_media")
        case UsageError():
            return RequestError(str(error))
        case ResourceError() | MemoryError():
            return RequestError(
                "Not enough memory for this request. Send a shorter one.",
                status=HTTPStatus.SERVICE_UNAVAILABLE,
                code="out_of_memory",
            )
        case OmniEdgeError():
            return RequestError(str(error), status=HTTPStatus.INTERNAL_SERVER_ERROR, code="engine_error")
        case _:
            return RequestError(
                "The server failed on this request. Its log names the error.",
                status=HTTPStatus.INTERNAL_SERVER_ERROR,
                code="internal_error",
            )


def cannot_listen(host: str, port: int | None, error: Exception, options: str) -> ServerError:
    """The error of an address on which the server cannot listen; `options` choose another one."""
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    return ServerError(f"The server cannot listen on {host} port {port} ({reason}). Choose another with {options}.")
