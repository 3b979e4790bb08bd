"""One server for the tests that only ask it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from openai import OpenAI

from omni_edge import OmniEdge
from omni_edge.serve.settings import ServeSettings
from support.served import Served, served


@pytest.fixture(scope="session")
def nano() -> OmniEdge:
    """The built-in model as it is: its replies end."""
    return OmniEdge.load(threads=1)


@pytest.fixture(scope="session")
def server(nano: OmniEdge) -> Iterator[Served]:
    with served(nano, ServeSettings(port=0)) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Served) -> Iterator[OpenAI]:
    with server.client() as made:
        yield made
