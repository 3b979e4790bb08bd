"""The closed world: replies are right, splits are apart, the grammar and the tokenizer cover every reply."""

from __future__ import annotations

import random
import re
from collections import defaultdict

import pytest

from nano import world
from nano.data import tokenizer
from omni_edge.bundle.manifest import TextSection
from omni_edge.decoders.tokenizer import TextTokenizer

SPLITS: tuple[world.Split, world.Split] = ("train", "held_out")
DRAWS = 1500


def value(words: str) -> int:
    """The number that `words` spell."""
    known = {world.number(count): count for count in (*range(21), 30, 45)}
    return known[words.lower()]


def spoken_by_user(turn: world.Turn) -> str:
    part = turn.parts[-1]
    assert isinstance(part, world.Text | world.Speech)
    return part.text


def exchanges(split: world.Split, family: str | None = None) -> list[world.Exchange]:
    rng = random.Random(f"{split} {family}")
    return [world.draw(rng, split, family) for _ in range(DRAWS)]


def test_no_request_is_in_both_splits() -> None:
    texts = [request.text for request in world.requests()]
    assert len(texts) == len(set(texts))
    assert not set(world.spoken_texts("train")) & set(world.spoken_texts("held_out"))


def test_every_slot_value_and_every_sum_is_heard_in_training() -> None:
    slots = defaultdict(set)
    for request in world.requests():
        if request.family in {"timer", "light"}:
            for place, slot in enumerate(request.slots):
                slots[request.split, request.family, place].add(slot)
    for family, places in (("timer", 2), ("light", 3)):
        for place in range(places):
            assert slots["train", family, place] >= slots["held_out", family, place]
    facts = {split: {r.reply for r in world.requests() if r.family == "sum" and r.split == split} for split in SPLITS}
    assert facts["held_out"] < facts["train"]
    assert len(facts["train"]) == 11 * 11 + 11 * 12 // 2


@pytest.mark.parametrize("family", ["timer", "light"])
def test_held_out_combinations_are_never_heard_in_any_wording(family: str) -> None:
    combinations = {
        split: {r.slots for r in world.requests() if r.family == family and r.split == split} for split in SPLITS
    }
    assert combinations["held_out"]
    assert not combinations["train"] & combinations["held_out"]


def test_sums_are_right() -> None:
    form = re.compile(r"(.+) (plus|minus) (.+) is (.+)\.")
    checked = 0
    for reply in world.replies_by_family()["sum"]:
        found = form.fullmatch(reply)
        assert found is not None
        first, operation, second, result = found.groups()
        sign = 1 if operation == "plus" else -1
        assert value(first) + sign * value(second) == value(result)
        checked += 1
    assert checked > 200


def test_second_turns_follow_from_the_first() -> None:
    kinds = set()
    for exchange in exchanges("train", "conversation"):
        first, second = exchange.turns
        said, asked = spoken_by_user(first), spoken_by_user(second)
        words = asked.split()
        if words[:2] == ["turn", "it"]:
            device = " ".join(first.reply.split()[1:3])
            assert second.reply == f"The {device} is {words[2]}."
            assert not first.reply.endswith(f"{words[2]}.")
        elif words[:2] == ["now", "add"]:
            before = first.reply.rstrip(".").split(" is ")[1]
            total = value(before) + value(words[2])
            assert second.reply.lower() == f"{before} plus {words[2]} is {world.number(total)}."
        elif asked.startswith("what did i"):
            assert second.reply == f"You said: {said}."
        else:
            unit = first.reply.rstrip(".").split()[-1].rstrip("s")
            changed = asked.removeprefix("make it ").removeprefix("change it to ")
            plural = "" if changed == "one" else "s"
            assert second.reply == f"Timer set for {changed} {unit}{plural}."
        kinds.add(words[0])
    assert kinds == {"turn", "now", "what", "make", "change"}


def test_held_out_draws_are_new() -> None:
    for family in ("conversation", "sound_and_picture"):
        keys = {
            split: {
                (spoken_by_user(e.turns[0]), e.turns[-1].reply)
                if family == "conversation"
                else (e.turns[0].parts[0].scene.colours, e.turns[0].parts[0].scene.sound_at)  # type: ignore[union-attr]
                for e in exchanges(split, family)
            }
            for split in SPLITS
        }
        assert len(keys["held_out"]) > 100
        assert not keys["train"] & keys["held_out"]


def test_held_out_pictures_show_pairs_and_seeds_that_training_does_not() -> None:
    pairs, seeds = defaultdict(set), defaultdict(set)
    for split in SPLITS:
        for exchange in exchanges(split, "picture"):
            part = exchange.turns[0].parts[0]
            assert isinstance(part, world.Picture)
            seeds[split].add(part.scene.seed)
            if part.scene.relation:
                pairs[split].add(part.scene.figures)
    assert not seeds["train"] & seeds["held_out"]
    assert pairs["held_out"]
    assert not pairs["train"] & pairs["held_out"]


def test_the_same_seed_draws_the_same_exchange() -> None:
    assert [world.draw(random.Random(seed)) for seed in range(50)] == [
        world.draw(random.Random(seed)) for seed in range(50)
    ]


def test_every_reply_is_enumerated_and_short() -> None:
    listed = set(world.reply_texts())
    for split in SPLITS:
        replies = {turn.reply for exchange in exchanges(split) for turn in exchange.turns}
        assert replies <= listed
    assert all(reply[0].isupper() and reply[-1] in ".?" and len(reply.split()) <= 11 for reply in listed)


def test_typed_words_keep_their_meaning() -> None:
    rng = random.Random(3)
    for request in world.requests():
        words = world.typed(request.text, rng).rstrip("?.").lower().replace("color", "colour").split()
        restored = [world.number(int(word)) if word.isdigit() else word for word in words]
        assert " ".join(restored) == request.text


def test_the_speaking_side_has_its_own_held_out_replies() -> None:
    rng = random.Random(4)
    drawn = {split: {world.draw_reply(rng, split) for _ in range(DRAWS)} for split in SPLITS}
    assert len(drawn["held_out"]) > 100
    assert not drawn["train"] & drawn["held_out"]
    assert "It blinks two times." in drawn["train"]


def test_the_grammar_accepts_every_reply_and_nothing_else_in_kind() -> None:
    rules = dict(re.findall(r"^(?:public )?<(\w+)> = (.*);$", world.grammar(), re.MULTILINE))

    def expand(text: str) -> str:
        return re.sub(r"<(\w+)>", lambda found: f"(?:{expand(rules[found.group(1)])})", text)

    form = re.compile(re.sub(r" \| ", "|", expand(rules["reply"])))
    for reply in world.reply_texts():
        assert form.fullmatch(world.plain_words(reply)), reply
    assert not form.fullmatch("the red circle is")
    assert not form.fullmatch("timer set for five circles")


def test_the_tokenizer_returns_every_text_and_keeps_it_short() -> None:
    learned = tokenizer.learn()
    for text in (*world.reply_texts(), *world.spoken_texts("train"), *world.spoken_texts("held_out")):
        assert learned.decode(learned.encode(text).ids) == text
    longest = max(len(learned.encode(reply).ids) for reply in world.reply_texts())
    assert longest <= 13
    assert len(learned.encode(world.SPEECH_SYSTEM).ids) == len(learned.encode(world.TEXT_SYSTEM).ids) == 1


def test_the_runtime_reads_the_tokenizer(tmp_path) -> None:
    learned = tokenizer.write_tokenizer(tmp_path)
    marks = dict.fromkeys(TextSection.__dataclass_fields__, 0) | {
        "turn_start": "<|im_start|>",
        "turn_end": "<|im_end|>",
    }
    codec = TextTokenizer(tmp_path / "tokenizer.json", TextSection(**marks))  # type: ignore[arg-type]
    assert codec.turn_end == learned.token_to_id("<|im_end|>")
    assert codec.encode("Turn on the kitchen light.") == learned.encode("Turn on the kitchen light.").ids
    assert codec.encode(world.SPEECH_SYSTEM) == [learned.token_to_id(world.SPEECH_SYSTEM)]
    # What a user types is never a mark.
    assert codec.turn_end not in codec.encode("<|im_end|>")
