"""Functions and JSON schemas, asked by OpenAI's own client."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from omni_edge import OmniEdge, Sampling
from omni_edge.conversation.settings import ReplySettings
from omni_edge.events import AudioChunk, TurnDone
from omni_edge.serve.tools import CallReader, ToolCall, reply_text

QUESTION = "turn on the kitchen light"
ROOM = {
    "type": "object",
    "properties": {"room": {"enum": ["kitchen", "bedroom"]}, "on": {"type": "boolean"}},
    "required": ["room", "on"],
    "additionalProperties": False,
}
LIGHT = {"type": "function", "function": {"name": "set_light", "description": "Switches a light.", "parameters": ROOM}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "set_light", "arguments": '{"room": "kitchen"}'}}


def ask(client: OpenAI, messages: list[Any] | None = None, **fields: Any) -> Any:
    messages = messages or [{"role": "user", "content": QUESTION}]
    return client.chat.completions.create(model="omni", messages=messages, temperature=0, **fields)


@pytest.mark.parametrize("spoken", [False, True])
def test_a_required_call_has_the_arguments_of_its_schema(client: OpenAI, spoken: bool) -> None:
    fields: dict[str, Any] = {"tools": [CLOCK, LIGHT], "tool_choice": LIGHT | {"function": {"name": "set_light"}}}
    fields["parallel_tool_calls"] = False
    if spoken:
        fields |= {"modalities": ["text", "audio"], "audio": {"voice": "Chelsie", "format": "pcm16"}}
    (choice,) = ask(client, **fields).choices
    assert (choice.finish_reason, choice.message.content, choice.message.audio) == ("tool_calls", None, None)
    (call,) = choice.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert call.function.name == "set_light"
    assert set(arguments) == {"room", "on"}
    assert arguments["room"] in ("kitchen", "bedroom")
    assert isinstance(arguments["on"], bool)

    deltas = [chunk.choices[0] for chunk in ask(client, **fields, stream=True)]
    (streamed,) = [delta for choice in deltas for delta in choice.delta.tool_calls or []]
    assert (streamed.index, streamed.function) == (0, type(streamed.function)(**call.function.to_dict()))
    assert deltas[-1].finish_reason == "tool_calls"
    assert not any(choice.delta.content for choice in deltas)


def test_the_result_of_a_call_is_a_turn_in_the_form_that_the_model_knows(client: OpenAI, nano: OmniEdge) -> None:
    tools = [LIGHT]
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    messages = [
        {"role": "user", "content": QUESTION},
        call,
        {"role": "tool", "tool_call_id": "call_1", "content": "done"},
    ]
    answer = ask(client, messages, tools=tools)
    system = (
        f"{nano.manifest.text.default_system}\n\n# Tools\n\nYou may call one or more functions to assist with the user "
        "query.\n\nYou are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
        f"{json.dumps(LIGHT)}\n</tools>\n\nFor each function call, return a json object with function name and "
        'arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
        "<args-json-object>}\n</tool_call>"
    )
    session = nano.session(speech=False, system=system, sampling=Sampling(temperature=0))
    session.push(QUESTION)
    session.push_reply('<tool_call>\n{"name": "set_light", "arguments": {"room": "kitchen"}}\n</tool_call>')
    session.push("<tool_response>\ndone\n</tool_response>")
    done = list(session.reply())[-1]
    assert isinstance(done, TurnDone)
    assert answer.usage.prompt_tokens == done.prompt_tokens
    assert answer.choices[0].message.content == done.text
    # Without a choice of tools, they are not shown to the model.
    shown = ask(client, tools=tools, tool_choice="none").usage.prompt_tokens
    assert shown == ask(client).usage.prompt_tokens


def test_a_reply_may_be_bound_to_a_schema(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "light", "schema": ROOM, "strict": True}}
    answer = json.loads(ask(client, response_format=form).choices[0].message.content)
    assert answer["room"] in ("kitchen", "bedroom")
    assert isinstance(json.loads(ask(client, response_format={"type": "json_object"}).choices[0].message.content), dict)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
        ({"tools": [LIGHT, LIGHT]}, "tools[1].function.name"),
        ({"tools": [{"type": "function", "function": {"name": "no name"}}]}, "tools[0].function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [LIGHT], "tool_choice": CLOCK}, "tool_choice.function.name"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_object"}, "modalities": ["text", "audio"]}, "response_format"),
    ],
)
def test_wrong_tools_are_refused_by_name(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, extra_body=fields)
    assert caught.value.param == param


def test_a_schema_that_cannot_be_used_is_refused(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "objct"}}}
    with pytest.raises(openai.BadRequestError, match="Invalid type: objct"):
        ask(client, response_format=form)


def test_calls_are_taken_out_of_a_text_wherever_it_is_cut() -> None:
    call = ToolCall("f", '{"a": [1, "é"]}')
    text = reply_text("Sure.", [call, call]) + '\n<tool_call>\n{"name": "unknown"}\n</tool_call> <tool'
    for size in range(1, len(text)):
        reader = CallReader(["f"])
        pieces = [out for at in range(0, len(text), size) for out in reader.push(text[at : at + size])] + reader.close()
        assert [(found.name, found.arguments) for found in reader.calls] == [(call.name, call.arguments)] * 2
        assert reader.said == 'Sure.\n<tool_call>\n{"name": "unknown"}\n</tool_call> <tool'
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == reader.said


def test_what_is_not_spoken_is_written_only(nano: OmniEdge) -> None:
    def said(settings: ReplySettings) -> tuple[str, list[float]]:
        session = nano.session(seed=1, sampling=Sampling(temperature=0))
        session.push(QUESTION)
        events = list(session.reply(settings=settings))
        assert isinstance(events[-1], TurnDone)
        return events[-1].text, [value for event in events if isinstance(event, AudioChunk) for value in event.samples]

    text, samples = said(ReplySettings(unspoken=(" light",)))
    assert text == "The kitchen light is on."
    assert samples == said(ReplySettings(text="The kitchen"))[1] != said(ReplySettings())[1]
