"""`optimum-cli export omni-edge ...`: the same command as `omni-export`, found by optimum in this namespace package.

There must be no `__init__.py` beside or above this file: `optimum.commands` belongs to several distributions (PEP 420).
"""

from argparse import ArgumentParser

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class OmniEdgeExportCommand(BaseOptimumCLICommand):
    """Hands its arguments to `omni-export`, so that both have the same options and the same help."""

    COMMAND = CommandInfo(name="omni-edge", help="Export Qwen2.5-Omni to a bundle for omni-edge (ONNX Runtime, CPU).")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        # Without prefix characters nothing is an option here: `--help` and all others reach omni-export's own parser.
        parser.prefix_chars = ""
        parser.add_argument("arguments", nargs="*")

    def run(self) -> None:
        from omni_cli.commands.export import run  # noqa: PLC0415 -- optimum-cli loads this file at every start

        run(self.args.arguments, "optimum-cli export omni-edge")


REGISTER_COMMANDS = [(OmniEdgeExportCommand, ExportCommand)]
