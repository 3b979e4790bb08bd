"""Trains the Talker: `python -m nano.training.train_talker --work nano-work`, after `nano.training.train_codec`, twice.

Its input is the Thinker's states (embedding + last hidden state of every position); its targets are the codec tokens of
the same reply in both voices. The first run needs a Thinker after its first run, and stops by itself. The second run
uses the finished Thinker. A hidden state already holds the next word, so the second run takes only exercises that the
Thinker answers rightly.
"""

from __future__ import annotations

import argparse
import csv
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from nano import world
from nano.data.exercises import make_exercise
from nano.data.sequences import IGNORED, Composer, Sample, by_length
from nano.data.speech_cache import SpeechCache
from nano.data.speech_corpus import Kind
from nano.model.architecture import (
    CODEBOOK,
    CODEC_END,
    CODEC_PAD,
    CODEC_START,
    SEED,
    SPEAKERS,
    load_part,
    save_part,
)
from nano.model.forward import decode
from nano.training.loop import parse, save
from nano.training.optimizer import Optimizer, working_dtype
from nano.training.thinker_losses import ThinkerTraining
from nano.training.train_codec import load_codes

NAME = "talker"
_WARM_UP = 60
_LOG_EVERY = 10
_SAVE_EVERY = 100
# Part of the replies that are random words: with true sentences alone the Talker learns the likely words instead of
# the given ones.
_RANDOM_WORDS = 0.4
# Exchanges that are drawn, and the most that are kept for each reply.
_DRAWS, _WAYS = 60_000, 8
# Part of the prompts that are cut to their last positions, and how many positions those keep.
_SHORT, _CUT_PART = 6, 0.4
_SPOKEN_PART = 0.6
# Largest part of the past codec tokens that are random in training. With true ones alone the Talker recognizes the
# sentence from them, ignores the text, and fails after its first wrong token.
_LARGEST_RANDOM_PART = 0.7


@dataclass(frozen=True)
class TalkerSample:
    """The Talker's input and targets for one reply.

    Attributes:
        states: [n, hidden] in `working_dtype`; the Thinker's states.
        ids: int64 [3, n]; TMRoPE.
        start: position of the reply's first token.
        codes: codec tokens int16 [m] by voice.
        family: the exchange's family.
    """

    states: Tensor
    ids: Tensor
    start: int
    codes: dict[str, np.ndarray]
    family: str


class TalkerTraining(nn.Module):
    """The Talker, with its inputs; the Thinker's marks are fixed vectors."""

    def __init__(self, composer: Composer, thinker: ThinkerTraining) -> None:
        super().__init__()
        torch.manual_seed(SEED + 1)
        config = composer.config.talker_config
        self.talker = modeling.Qwen2_5OmniTalkerForConditionalGeneration(config)
        _initialize(self.talker)
        self.to(working_dtype())
        table = thinker.thinker.model.language_model.embed_tokens.weight.detach()
        self._voices = {name: table[composer.token(token)] for name, token in SPEAKERS.items()}
        self._end = table[config.tts_text_end_token_id]
        self._pad = table[config.tts_text_pad_token_id]

    def loss(self, batch: list[tuple[TalkerSample, str, int]]) -> tuple[Tensor, Tensor]:
        """Mean cross entropy of the codec tokens, and the share that is likeliest.

        Args:
            batch: (sample, voice, length of the prompt's end that is kept) of each row.
        """
        rows, ids, targets = [], [], []
        for sample, voice, prompt_length in batch:
            first = sample.start - prompt_length
            codes = torch.as_tensor(sample.codes[voice].astype(np.int64))
            reply = sample.states[sample.start :]
            fed = torch.cat([reply, self._end[None], self._pad.expand(max(0, len(codes) + 1 - len(reply) - 1), -1)])
            fed = fed[: len(codes) + 1]
            before = codes
            if self.training:
                random_places = torch.rand(len(codes)) < torch.rand(()) * _LARGEST_RANDOM_PART
                before = torch.where(random_places, torch.randint(1, CODEBOOK, codes.shape), codes)
            spoken = torch.cat([torch.tensor([CODEC_PAD, CODEC_START]), before])
            text = torch.cat([sample.states[first : sample.start], self._voices[voice][None], fed])
            embeds = self.talker.model.embed_tokens(spoken)
            rows.append(text + functional.pad(embeds, (0, 0, prompt_length, 0)))
            prompt = sample.ids[:, first : sample.start]
            after = int(sample.ids[:, : sample.start].max()) + 1 + torch.arange(len(codes) + 2)
            ids.append(torch.cat([prompt, after.expand(3, -1)], dim=1))
            wanted = torch.cat([codes, torch.tensor([CODEC_END])])
            targets.append(functional.pad(wanted, (prompt_length + 1, 0), value=IGNORED))
        embeds = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        positions = nn.utils.rnn.pad_sequence([each.T for each in ids], batch_first=True).permute(2, 0, 1)
        labels = nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=IGNORED)
        hidden = decode(self.talker.model, self.talker.thinker_to_talker_proj(embeds), positions)
        chosen = labels != IGNORED
        scores = self.talker.codec_head(hidden[chosen]).float()
        return functional.cross_entropy(scores, labels[chosen]), (scores.argmax(-1) == labels[chosen]).float().mean()


@torch.no_grad()
def _initialize(talker: nn.Module) -> None:
    for name, parameter in talker.named_parameters():
        if parameter.ndim == 2:
            if name.endswith("embed_tokens.weight"):
                # The scale of a hidden state after its norm.
                nn.init.normal_(parameter, std=0.7)
            else:
                closing = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(parameter, std=(0.2 if closing else 0.7) * parameter.shape[1] ** -0.5)


def load_thinker(work: Path, composer: Composer) -> ThinkerTraining:
    """The trained Thinker."""
    model = ThinkerTraining(composer)
    state = load_part(work, "thinker")
    if state is None:
        raise FileNotFoundError(f"{work} has no trained Thinker: run python -m nano.training.train_thinker")
    model.thinker.load_state_dict(state, strict=False)
    return model.eval()


@torch.no_grad()
def thinker_states(model: ThinkerTraining, samples: list[Sample]) -> list[tuple[Sample, Tensor, bool]]:
    """Each sample with its states [n, hidden], and whether the Thinker gives its last reply."""
    results: list[tuple[Sample, Tensor, bool]] = []
    media = set(model.media_tokens)
    table = model.thinker.model.language_model.embed_tokens.weight
    for part in by_length(samples, -(-len(samples) // 32)):
        hidden = model.states(part)
        for row, sample in enumerate(part):
            states = hidden[row, : len(sample)]
            tokens = torch.as_tensor(sample.tokens)
            words = table[tokens] * torch.tensor([token not in media for token in sample.tokens.tolist()])[:, None]
            start, stop = sample.replies[-1]
            likeliest = (states[start - 1 : stop] @ table.T).argmax(-1)
            right = bool((likeliest == torch.as_tensor(sample.targets[start - 1 : stop])).all())
            results.append((sample, (states + words).clone(), right))
    return results


def reply_samples(
    work: Path, composer: Composer, model: ThinkerTraining, split: world.Split, limit: int, only_right: bool
) -> list[TalkerSample]:
    """Samples of up to `limit` replies of the corpus; with `only_right`, of those that the Thinker gives itself."""
    codes = _codes(work, "reply", split)
    rng = random.Random(split)
    exchanges: dict[str, list[world.Exchange]] = {text: [] for text in codes}
    for _ in range(_DRAWS):
        exchange = world.draw(rng, "train", spoken=rng.random() < _SPOKEN_PART)
        ways = exchanges.get(exchange.turns[-1].reply)
        if ways is not None and len(ways) < _WAYS:
            ways.append(exchange)
    chosen = [exchange for ways in exchanges.values() for exchange in ways]
    rng.shuffle(chosen)
    found = _talker_samples(work, composer, model, chosen, codes, limit, only_right)
    print(f"{split}: {len(codes)} replies, {len(found)} taken", flush=True)
    return found


def random_word_samples(work: Path, composer: Composer, model: ThinkerTraining) -> list[TalkerSample]:
    """Samples whose replies are random words instead of the Thinker's."""
    codes = _codes(work, "general", "train")
    rng = random.Random(SEED)
    exchanges = []
    for text in codes:
        asked = world.draw(rng, "train", spoken=False)
        exchanges.append(replace(asked, turns=(*asked.turns[:-1], replace(asked.turns[-1], reply=text))))
    return _talker_samples(work, composer, model, exchanges, codes, len(exchanges), only_right=False)


def _codes(work: Path, kind: Kind, split: world.Split) -> dict[str, dict[str, np.ndarray]]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for spoken in load_codes(work):
        if spoken.clip.kind == kind and spoken.clip.split == split:
            found.setdefault(spoken.clip.text, {})[spoken.clip.speaker] = spoken.codes
    return found


def _talker_samples(
    work: Path,
    composer: Composer,
    model: ThinkerTraining,
    chosen: list[world.Exchange],
    codes: dict[str, dict[str, np.ndarray]],
    limit: int,
    only_right: bool,
) -> list[TalkerSample]:
    rng = random.Random(SEED)
    cache = SpeechCache(work)
    found: list[TalkerSample] = []
    for begin in range(0, len(chosen), 128):
        group = [
            composer.compose(make_exercise(exchange, rng, cache, "train")) for exchange in chosen[begin : begin + 128]
        ]
        asked = {id(sample): exchange for sample, exchange in zip(group, chosen[begin:], strict=False)}
        for sample, states, right in thinker_states(model, group):
            if right or not only_right:
                start, stop = sample.replies[-1]
                ids = torch.as_tensor(sample.ids[:, :stop])
                exchange = asked[id(sample)]
                found.append(TalkerSample(states[:stop], ids, start, codes[exchange.turns[-1].reply], exchange.family))
        if len(found) >= limit:
            break
    return found[:limit]


def train(work: Path, steps: int, early: int, batch: int, rate: float, fade: int, limit: int) -> None:
    """Trains from the last saved state on; saves every _SAVE_EVERY steps.

    Raises:
        RuntimeError: the Thinker answers no exercise rightly.
    """
    composer = Composer(work)
    thinker = load_thinker(work, composer)
    model = TalkerTraining(composer, thinker)
    optimizer = Optimizer(model)
    state = work / "training" / f"{NAME}.pt"
    if state.exists():
        optimizer.load_state_dict(torch.load(state, weights_only=True))
    begun = optimizer.steps < early
    last = early if begun else steps
    replies = reply_samples(work, composer, thinker, "train", limit, not begun)
    if not replies:
        raise RuntimeError("the Thinker gives no right reply: train it further with nano.training.train_thinker")
    families = {each.family: [other for other in replies if other.family == each.family] for each in replies}
    random_words = random_word_samples(work, composer, thinker)
    held_out = reply_samples(work, composer, thinker, "held_out", 48, not begun)
    del thinker
    began = time.monotonic()
    with (work / "training" / f"{NAME}.csv").open("a", newline="") as file:
        log = csv.writer(file)
        sums = np.zeros(2)
        for step in range(optimizer.steps, last):
            rng = random.Random(step)
            items = _draw(families, random_words, rng, batch)
            for part in _parts(items, 2):
                loss, right = model.loss(part)
                (loss * (len(part) / batch)).backward()
                sums += np.array([float(loss.detach()), float(right)]) * len(part) / batch / _LOG_EVERY
            optimizer.step(rate * min((step + 1) / _WARM_UP, 1.0, (steps - step) / fade))
            if (step + 1) % _LOG_EVERY == 0:
                row: list[Any] = [step + 1, *sums.round(4).tolist(), round(time.monotonic() - began)]
                if (step + 1) % _SAVE_EVERY == 0:
                    row.append(_held_out(model, optimizer, held_out))
                log.writerow(row)
                file.flush()
                print(*row, flush=True)
                sums[:] = 0
            if (step + 1) % _SAVE_EVERY == 0 or step + 1 == last:
                _save(work, state, optimizer)


def _draw(
    replies: dict[str, list[TalkerSample]], random_words: list[TalkerSample], rng: random.Random, batch: int
) -> list[tuple[TalkerSample, str, int]]:
    items = []
    for _ in range(batch):
        each = rng.choice(random_words if rng.random() < _RANDOM_WORDS else replies[rng.choice(list(replies))])
        prompt_length = each.start if rng.random() > _CUT_PART else min(each.start, _SHORT)
        items.append((each, rng.choice(list(each.codes)), prompt_length))
    return items


def _parts(items: list[tuple[TalkerSample, str, int]], count: int) -> list[list[tuple[TalkerSample, str, int]]]:
    ordered = sorted(items, key=lambda item: item[2] + len(item[0].codes[item[1]]))
    size = -(-len(ordered) // count)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


@torch.no_grad()
def _held_out(model: TalkerTraining, optimizer: Optimizer, held_out: list[TalkerSample]) -> str:
    """Loss and share of likeliest tokens on held-out replies, with whole prompts and averaged weights."""
    model.eval()
    for name, parameter in model.named_parameters():
        parameter.copy_(optimizer.averages[name])
    items = [(sample, voice, sample.start) for sample in held_out for voice in sample.codes]
    losses = [[float(value) for value in model.loss(part)] for part in _parts(items, max(1, len(items) // 24))]
    for name, parameter in model.named_parameters():
        parameter.copy_(optimizer.masters[name])
    model.train()
    loss, right = np.mean(losses, axis=0)
    return f"held out {loss:.3f} {right:.3f}"


def _save(work: Path, state: Path, optimizer: Optimizer) -> None:
    save(optimizer.state_dict(), state)
    prefix = "talker."
    save_part(work, "talker", {k.removeprefix(prefix): v.to(torch.bfloat16) for k, v in optimizer.averages.items()})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("nano-work"))
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--early", type=int, default=400, help="steps of the first run")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--fade", type=int, default=2500)
    parser.add_argument("--limit", type=int, default=6000, help="most replies")
    parser.add_argument("--threads", type=int, default=1)
    train(**parse(parser))


if __name__ == "__main__":
    main()
