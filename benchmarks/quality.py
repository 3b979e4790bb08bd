"""What each recipe costs in quality, on a real language model: the table of docs/accuracy.md.

    python benchmarks/smollm2_checkpoint.py /tmp/smollm2 --dither 0
    omni-export /tmp/smollm2 --out /tmp/smollm2-int4 --text-only
    python benchmarks/quality.py /tmp/smollm2 --bundle "int4=/tmp/smollm2-int4" \\
        --llama /opt/llama/bin/python --llama-kinds Q4_0 Q4_K_M Q8_0

Every row is measured against the checkpoint in float32, on the same text and the same questions: teacher-forced, one
token a step, through the product's runtime (run `omni-edge prepare` first: its compiled operators then take part). The
text is Debian's package `fortunes`. `--results` adds the rows to a file of JSON lines.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from command_line import published_command
from numpy.typing import NDArray

from omni_edge import OmniEdge
from omni_edge.backend import kernels
from omni_edge.backend.machine import machine
from omni_edge.bundle.manifest import graph_bytes
from omni_edge.bundle.reader import Bundle
from omni_edge.decoders.sampling import Sampling
from omni_edge.events import TurnDone
from omni_edge.model import Model
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.evaluate import thinker as thinkers
from omni_export.evaluate.evaluate import count_weights
from omni_export.evaluate.metrics import TokenScores
from omni_export.evaluate.turns import text_turn
from omni_export.verify.reference import ReferenceModules

PEERS = Path(__file__).with_name("peers")
FORTUNES = Path("/usr/share/games/fortunes")
SYSTEM = "You are a helpful AI assistant."
REPLY_TOKENS = 16
QUESTIONS = (
    "What is the capital of France?",
    "What is the capital of Japan?",
    "What is the capital of Egypt?",
    "What is the capital of Canada?",
    "Which planet is the largest one?",
    "Which planet is closest to the Sun?",
    "How many days has a week?",
    "How many legs does a spider have?",
    "What is the chemical symbol of gold?",
    "What is the chemical formula of water?",
    "Who wrote Romeo and Juliet?",
    "Who painted the Mona Lisa?",
    "Which ocean is the largest one?",
    "Which is the longest river of Africa?",
    "In which country is the Great Wall?",
    "In which city is the Eiffel Tower?",
    "What colour is the sky on a clear day?",
    "What do bees make?",
    "At what temperature does water boil?",
    "What is the opposite of hot?",
    "What language do people speak in Brazil?",
    "Which animal is called the king of the jungle?",
    "What is two plus two?",
    "What is the currency of the United Kingdom?",
)


def read_prose(path: Path) -> str:
    """The text of a file, or of the files of a folder of fortunes in the order of their names."""
    if path.is_file():
        return path.read_text("utf-8")
    parts = [file for file in sorted(path.iterdir()) if file.is_file() and "." not in file.name]
    return "".join(part.read_text("utf-8", "replace").replace("\n%\n", "\n\n") for part in parts)


class Judge:
    """The reference in float32 and what it says.

    Args:
        checkpoint: the folder.
        model: a bundle of it, for the form of a conversation.
        texts: passages of tokens.
        kept: a file that keeps what the reference says from run to run, of these passages or of more; None: it is
            computed anew.
    """

    def __init__(
        self, checkpoint: Checkpoint, model: Model, texts: list[NDArray[np.int64]], kept: Path | None = None
    ) -> None:
        self.texts = texts
        self.total = sum(text.size - 1 for text in texts)
        modules = ReferenceModules(checkpoint, OmniConfig.parse(checkpoint.config, speech=False))
        self.decoder = thinkers.reference_thinker(modules)
        turns = [text_turn(question, SYSTEM, model, modules) for question in QUESTIONS]
        self.prompts = [np.concatenate([block.tokens for block in turn.own]).tolist() for turn in turns]
        if kept is not None and kept.exists():
            with np.load(kept) as file:
                wanted = np.concatenate(texts)
                if not np.array_equal(file["tokens"][: wanted.size], wanted):
                    raise SystemExit(f"{kept} was made for another text. Name another file with --reference.")
                cuts = np.cumsum([text.size for text in texts])
                self.states = np.split(file["states"], cuts)[:-1]
                self.replies = [[token for token in reply if token >= 0] for reply in file["replies"].tolist()]
            return
        self.states = thinkers.text_states(texts, self.decoder, modules)
        replies = thinkers.reply_to(turns, REPLY_TOKENS, model, self.decoder, modules)
        self.replies = [reply.tokens for reply in replies]
        if kept is not None:
            padded = [[*reply, *[-1] * (REPLY_TOKENS - len(reply))] for reply in self.replies]
            np.savez(kept, tokens=np.concatenate(texts), states=np.concatenate(self.states), replies=padded)

    def logits(self) -> Iterator[tuple[int, NDArray[np.float32], int]]:
        """(passage, logits [vocabulary], the token that follows) of every predicted token."""
        for number, (text, states) in enumerate(zip(self.texts, self.states, strict=True)):
            for expected, token in zip(self.decoder.logits(states[:-1]), text[1:].tolist(), strict=True):
                yield number, expected, token

    def row(self, name: str, scores: TokenScores, replies: list[list[int]], **more: Any) -> dict[str, Any]:
        """A row of the table: what was scored, and how far replies follow the reference's."""
        equal = [
            [own == wanted for own, wanted in zip([*reply, *[-1] * REPLY_TOKENS], expected, strict=False)]
            for reply, expected in zip(replies, self.replies, strict=True)
        ]
        return {
            "name": name,
            **more,
            "tokens": len(scores),
            "reference_perplexity": scores.reference_perplexity,
            "perplexity": scores.perplexity,
            "kl": scores.mean_kl,
            "same_first_choice": scores.agreement,
            "reply_tokens_equal": float(np.mean([value for reply in equal for value in reply])),
            "first_tokens_equal": float(np.mean([reply[0] for reply in equal])),
        }


def bundle_row(name: str, path: Path, judge: Judge, checkpoint: Checkpoint, threads: int | None) -> dict[str, Any]:
    """The row of a bundle."""
    engine = OmniEdge.load(path, threads=threads)
    scores = thinkers.score_text(judge.texts, judge.states, engine.model, judge.decoder, progress(name))
    replies = []
    for question in QUESTIONS:
        session = engine.session(system=SYSTEM, speech=False, seed=0, context=256, sampling=Sampling(temperature=0))
        session.push(question)
        done = [event for event in session.reply(max_new_tokens=REPLY_TOKENS) if isinstance(event, TurnDone)]
        replies.append(list(done[0].token_ids))
    nbytes = graph_bytes(engine.manifest, "thinker")
    return judge.row(
        name,
        scores,
        replies,
        engine="omni-edge",
        precision=engine.manifest.graphs["thinker"].precision,
        compiled=kernels.compiled() is not None,
        nbytes=nbytes,
        bits_per_weight=8 * nbytes / count_weights(checkpoint, "thinker"),
    )


def peer_row(name: str, python: Path, words: list[str], judge: Judge, checkpoint: Path, threads: int) -> dict[str, Any]:
    """The row of another engine.

    Args:
        name: of the row.
        python: the interpreter that has the engine's package.
        words: its script in peers/ and the script's arguments; "FOLDER" is where it finds the request.
        judge: the reference.
        checkpoint: the folder.
        threads: that the engine may use.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        request = {"passages": [text.tolist() for text in judge.texts], "prompts": judge.prompts}
        (folder / "request.json").write_text(json.dumps({**request, "reply_tokens": REPLY_TOKENS}))
        script, *given = [str(folder) if word == "FOLDER" else word for word in words]
        command = [str(python), str(PEERS / script), *given, "--threads", str(threads)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{name} failed: {result.stderr[-1000:]}")
        answer = json.loads((folder / "answer.json").read_text("utf-8"))
        logits = [np.load(folder / f"logits-{number}.npy", mmap_mode="r") for number in range(len(judge.texts))]
        rows = [iter(array) for array in logits]
        scores, tell = TokenScores(), progress(name)
        for number, expected, token in judge.logits():
            scores.add(expected, np.asarray(next(rows[number]))[: expected.size], token)
            tell(len(scores), judge.total)
    answer["bits_per_weight"] = 8 * answer["nbytes"] / count_weights(Checkpoint(checkpoint), "thinker")
    replies = answer.pop("replies")
    return judge.row(name, scores, replies, **answer)


def progress(name: str) -> Any:
    """Lines on stderr, ten for each row."""

    def tell(done: int, total: int) -> None:
        if done * 10 // total != (done - 1) * 10 // total:
            print(f"{name}: {done} of {total} tokens", file=sys.stderr, flush=True)

    return tell


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    head = (
        "| weights | bits per weight | MB | perplexity | KL, nats | same first choice | reply tokens equal | first |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    )
    return "\n".join([*head, *map(table_line, rows)])


def table_line(row: dict[str, Any]) -> str:
    """A row as Markdown."""
    return (
        f"| {row['name']} | {row['bits_per_weight']:.2f} | {row['nbytes'] / 1e6:.0f} | {row['perplexity']:.1f} "
        f"| {row['kl']:.4f} | {100 * row['same_first_choice']:.1f} % | {100 * row['reply_tokens_equal']:.0f} % "
        f"| {100 * row['first_tokens_equal']:.0f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--bundle", action="append", required=True, metavar="NAME=FOLDER", help="repeatable")
    parser.add_argument("--text", type=Path, default=FORTUNES, help="a file, or a folder of fortunes")
    parser.add_argument("--skip", type=int, default=200_000, help="tokens of the text that are left out first")
    parser.add_argument("--tokens", type=int, default=5120, help="tokens that are used")
    parser.add_argument("--passage", type=int, default=1024, help="tokens of one context")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--llama", type=Path, metavar="PYTHON", help="interpreter that has llama-cpp-python and gguf")
    parser.add_argument("--mnn", metavar="PYTHON:MODEL", help="interpreter that has MNN, and what peers/mnn.py built")
    parser.add_argument("--peers-only", action="store_true", help="no rows for the bundles")
    parser.add_argument("--llama-kinds", nargs="*", default=["Q4_0", "Q4_K_M", "Q8_0"])
    parser.add_argument("--reference", type=Path, metavar="FILE.npz", help="keeps what float32 says from run to run")
    parser.add_argument("--results", type=Path, help="JSON lines that are added to: how, then the rows")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    bundles = dict(entry.partition("=")[::2] for entry in arguments.bundle)
    checkpoint = Checkpoint(arguments.checkpoint)
    model = Model(Bundle(next(iter(bundles.values()))), threads=arguments.threads)
    tokens = model.tokenizer.encode(read_prose(arguments.text))
    wanted = tokens[arguments.skip : arguments.skip + arguments.tokens]
    if len(wanted) < 2:
        parser.error(f"{arguments.text} has {len(tokens)} tokens: use a smaller --skip")
    judge = Judge(checkpoint, model, thinkers.passages(wanted, arguments.passage), arguments.reference)
    del model
    rows = []
    for name, path in () if arguments.peers_only else bundles.items():
        rows.append(bundle_row(name, Path(path), judge, checkpoint, arguments.threads))
        print(table_line(rows[-1]), file=sys.stderr, flush=True)
    for kind in arguments.llama_kinds if arguments.llama else ():
        words = ["llama_quality.py", str(arguments.checkpoint), "FOLDER", "--kind", kind]
        row = peer_row(f"llama.cpp {kind}", arguments.llama, words, judge, arguments.checkpoint, arguments.threads or 1)
        rows.append(row)
        print(table_line(rows[-1]), file=sys.stderr, flush=True)
    if arguments.mnn:
        python, _, folder = arguments.mnn.partition(":")
        words = ["mnn_quality.py", folder, "FOLDER"]
        rows.append(peer_row("MNN", Path(python), words, judge, arguments.checkpoint, arguments.threads or 1))
        print(table_line(rows[-1]), file=sys.stderr, flush=True)
    print(table(rows))
    if arguments.results:
        head = {
            "date": datetime.date.today().isoformat(),
            "command": published_command(sys.argv),
            "machine": asdict(machine()),
            "questions": len(QUESTIONS),
        }
        with arguments.results.open("a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(line)}\n" for line in [head, *rows])


if __name__ == "__main__":
    main()
