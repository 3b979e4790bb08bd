"""livekit-plugins-openai: its Realtime model without a room, a typed and a spoken question.

python livekit_realtime.py ADDRESS WAV
"""

from __future__ import annotations

import asyncio
import sys
import wave

from livekit import rtc
from livekit.agents import llm
from livekit.plugins.openai.realtime import RealtimeModel

REPLY = "The kitchen light is on."


async def said(generation: llm.GenerationCreatedEvent) -> tuple[str, float]:
    """Text and seconds of sound of a reply."""
    text, seconds = "", 0.0
    async for message in generation.message_stream:
        async for piece in message.text_stream:
            text += piece
        async for frame in message.audio_stream:
            seconds += frame.duration
    return text, seconds


async def main(address: str, file: str) -> None:
    with wave.open(file) as opened:
        samples, rate = opened.readframes(opened.getnframes()), opened.getframerate()
    model = RealtimeModel(model="omni", voice="Chelsie", api_key="unused", base_url=f"{address}/v1")
    session = model.session()
    errors: list[object] = []
    session.on("error", errors.append)
    answers: asyncio.Queue[llm.GenerationCreatedEvent] = asyncio.Queue()
    session.on("generation_created", answers.put_nowait)

    context = llm.ChatContext.empty()
    context.add_message(role="user", content="turn on the kitchen light")
    await session.update_chat_ctx(context)
    session.generate_reply()
    text, seconds = await said(await answers.get())
    assert (text, seconds > 0.5) == (REPLY, True), (text, seconds, errors)

    data = bytes(rate) + samples + bytes(3 * rate)
    block = rate // 50 * 2
    for start in range(0, len(data) - block + 1, block):
        session.push_audio(rtc.AudioFrame(data[start : start + block], rate, 1, block // 2))
        await asyncio.sleep(0.02)
    text, seconds = await said(await answers.get())
    assert (text, seconds > 0.5) == (REPLY, True), (text, seconds, errors)
    assert errors == []
    await session.aclose()
    print("livekit-plugins-openai: typed turn, spoken turn")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
