"""The packages that exporting needs and running does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from omni_edge.errors import UsageError


@contextmanager
def export_packages() -> Iterator[None]:
    """Inside, a package that is missing is a usage error with the way to get it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UsageError(
            f"There is no package {error.name}: exporting needs more than running. pip install 'omni-edge[export]'"
        ) from None
