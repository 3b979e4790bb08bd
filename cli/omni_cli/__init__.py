"""The commands `omni-edge` and `omni-export`: they parse, call and print."""

from importlib.metadata import version

__version__ = version("omni-edge")
