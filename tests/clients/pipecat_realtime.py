"""pipecat-ai: its OpenAI Realtime service in a pipeline, a spoken question in and speech out.

python pipecat_realtime.py ADDRESS WAV
"""

from __future__ import annotations

import asyncio
import sys
import wave

from pipecat.frames.frames import (
    EndFrame,
    Frame,
    InputAudioRawFrame,
    LLMContextFrame,
    TTSAudioRawFrame,
    TTSTextFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.realtime.llm import OpenAIRealtimeLLMService
from pipecat.workers.runner import WorkerRunner

REPLY = "The kitchen light is on."


class Listener(FrameProcessor):
    """Collects what the service says."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.sound = "", 0

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSTextFrame):
            self.text += frame.text
        elif isinstance(frame, TTSAudioRawFrame):
            self.sound += len(frame.audio)
        await self.push_frame(frame, direction)


async def main(address: str, file: str) -> None:
    with wave.open(file) as opened:
        samples, rate = opened.readframes(opened.getnframes()), opened.getframerate()
    url = address.replace("http", "ws", 1) + "/v1/realtime"
    service = OpenAIRealtimeLLMService(api_key="unused", base_url=url)
    listener = Listener()
    worker = PipelineWorker(Pipeline([service, listener]), params=PipelineParams(audio_in_sample_rate=rate))

    async def talk() -> None:
        await worker.queue_frame(LLMContextFrame(LLMContext()))
        # With nothing said yet, it asks the model to speak first.
        for _ in range(200):
            if listener.sound:
                break
            await asyncio.sleep(0.05)
        assert listener.sound, "no greeting"
        block = rate // 50 * 2
        data = bytes(rate) + samples + bytes(3 * rate)
        for start in range(0, len(data), block):
            await worker.queue_frame(InputAudioRawFrame(data[start : start + block], rate, 1))
            await asyncio.sleep(0.02)
        for _ in range(200):
            if REPLY in listener.text and listener.sound > rate:
                break
            await asyncio.sleep(0.05)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), talk())
    assert REPLY in listener.text, listener.text
    assert listener.sound > rate, listener.sound
    print("pipecat-ai: spoken turn")


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 60))
