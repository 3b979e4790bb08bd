"""The start of a reply: its limits, its random streams and its voice."""

from __future__ import annotations

from dataclasses import dataclass

from omni_edge.conversation.context import Context
from omni_edge.conversation.reply import Reply
from omni_edge.conversation.settings import CompleteSettings, ReplySettings
from omni_edge.conversation.speech import Speech
from omni_edge.conversation.stop_strings import StopStrings
from omni_edge.decoders.sampling import GivenTokens, Sampler, TokenSource
from omni_edge.model import Model

# Independent random streams of one seed.
_THINKER_STREAM, _TALKER_STREAM = range(2)


@dataclass(frozen=True)
class ReplyStart:
    """What a reply starts from; its user's turn is prefilled.

    Attributes:
        model: the loaded parts.
        settings: those of the conversation.
        chosen: what is different in this reply.
        context: the conversation.
        voice: name of the speaker.
        number: of the reply; names its random streams.
    """

    model: Model
    settings: CompleteSettings
    chosen: ReplySettings
    context: Context
    voice: str
    number: int

    def reply(
        self, began: float, prefill_seconds: float, max_new_tokens: int | None, max_codec_tokens: int | None
    ) -> Reply:
        """The reply, with nothing drawn yet.

        Args:
            began: end of the user's input (s, `time.perf_counter`).
            prefill_seconds: spent in the Thinker before the first token (s).
            max_new_tokens, max_codec_tokens: its limits; None: those of the settings.
        """
        return Reply(
            context=self.context,
            sampler=self._token_source(),
            limit=self.settings.sampling.max_new_tokens if max_new_tokens is None else max_new_tokens,
            eos=self.model.manifest.text.eos_tokens,
            stream=self.model.tokenizer.stream(),
            speech=self._speech(max_codec_tokens) if self.chosen.speech else None,
            began=began,
            prefill_seconds=prefill_seconds,
            stop=StopStrings(self.chosen.stop),
            unspoken=StopStrings(self.chosen.unspoken),
        )

    @property
    def _seed(self) -> int:
        return self.settings.seed if self.chosen.seed is None else self.chosen.seed

    def _token_source(self) -> TokenSource:
        manifest, settings, chosen = self.model.manifest, self.settings, self.chosen
        if chosen.text is not None:
            return GivenTokens([*self.model.tokenizer.encode(chosen.text), manifest.text.eos_tokens[0]])
        rules = settings.sampling if chosen.sampling is None else chosen.sampling.over(settings.sampling)
        stream = (self._seed, _THINKER_STREAM, self.number)
        sampler = Sampler(rules, stream, manifest.thinker.vocab_size, mask=chosen.mask, on_token=chosen.on_token)
        sampler.observe(self.context.tokens)
        return sampler

    def _speech(self, max_codec_tokens: int | None) -> Speech | None:
        settings, talker, talker_state = self.settings, self.model.talker, self.context.talker
        if talker is None or talker_state is None or settings.talker_sampling is None:
            return None
        vocoder, seed = self.model.vocoder(), self._seed
        return Speech(
            talker=talker,
            talker_state=talker_state,
            vocoder=vocoder,
            vocoder_state=vocoder.state(self.voice, (seed, self.number), settings.solver, settings.chunks),
            voice=self.model.voice_embed(self.voice),
            positions=self.context.positions,
            sampling=settings.talker_sampling,
            limit=settings.talker_sampling.max_new_tokens if max_codec_tokens is None else max_codec_tokens,
            seed=(seed, _TALKER_STREAM, self.number),
        )
