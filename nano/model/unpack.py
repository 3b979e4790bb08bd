"""Splits a checkpoint of omni-nano into its parts: `python -m nano.model.unpack nano/omni-nano --work nano-work`.

The parts are those that `nano.model.architecture` reads, so that the Thinker can be trained further without the earlier
stages (`nano.training.train_thinker --words 0`). A checkpoint has neither the optimizers' momentum nor the codec.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from transformers import Qwen2_5OmniForConditionalGeneration

from nano.model.architecture import PARTS, SPEAKER_FILE, save_part


def unpack(checkpoint: Path, work: Path) -> None:
    """Writes `WORK/weights` and the tokenizer.

    Raises:
        OSError: `checkpoint` is not the folder of a checkpoint.
    """
    tokenizer = work / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(checkpoint / "tokenizer.json", tokenizer)
    # The reference maps the published names to those of its modules.
    model = Qwen2_5OmniForConditionalGeneration.from_pretrained(checkpoint, dtype="auto", local_files_only=True)
    for part, prefix in PARTS.items():
        save_part(work, part, dict(model.get_submodule(prefix.rstrip(".")).named_parameters()))
    shutil.copyfile(checkpoint / SPEAKER_FILE, work / "weights" / SPEAKER_FILE)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    arguments = parser.parse_args()
    unpack(arguments.checkpoint, arguments.work)


if __name__ == "__main__":
    main()
