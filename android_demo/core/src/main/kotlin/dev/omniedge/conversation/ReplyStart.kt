package dev.omniedge.conversation

import dev.omniedge.Model
import dev.omniedge.decoders.GivenTokens
import dev.omniedge.decoders.Sampler
import dev.omniedge.decoders.TokenSource

// Independent random streams of one seed.
private const val THINKER_STREAM = 0L
private const val TALKER_STREAM = 1L

/**
 * The start of a reply: its limits, its random streams and its voice. Its user's turn is prefilled.
 *
 * @property chosen what is different in this reply.
 * @property voice name of the speaker; null in a text-only bundle.
 * @property number of the reply; names its random streams.
 */
internal class ReplyStart(
    private val model: Model,
    private val settings: CompleteSettings,
    private val chosen: ReplySettings,
    private val context: Context,
    private val voice: String?,
    private val number: Long,
) {
    private val seed = chosen.seed ?: settings.seed

    /**
     * The reply, with nothing drawn yet.
     *
     * @param began end of the user's input, in ns of [System.nanoTime].
     * @param maxNewTokens text tokens at most; null: as the settings say.
     * @param maxCodecTokens codec tokens at most; null: as the settings say.
     */
    fun reply(began: Long, maxNewTokens: Int?, maxCodecTokens: Int?) = Reply(
        context = context,
        tokenSource = tokenSource(),
        limit = maxNewTokens ?: settings.sampling.maxNewTokens,
        eos = model.manifest.text.eosTokens,
        stream = model.tokenizer.stream(),
        speech = if (chosen.speech) speech(maxCodecTokens) else null,
        began = began,
        stop = StopStrings(chosen.stop),
        unspoken = StopStrings(chosen.unspoken),
    )

    private fun tokenSource(): TokenSource {
        val manifest = model.manifest
        chosen.text?.let { return GivenTokens(model.tokenizer.encode(it) + manifest.text.eosTokens.first()) }
        val rules = chosen.sampling?.over(settings.sampling) ?: settings.sampling
        val sampler = Sampler(rules, seed, THINKER_STREAM, number, vocabSize = manifest.thinker.vocabSize)
        return sampler.apply { observe(context.tokens) }
    }

    private fun speech(maxCodecTokens: Int?): Speech? {
        val talker = model.talker ?: return null
        val talkerState = context.talker ?: return null
        val sampling = settings.talkerSampling ?: return null
        val voice = voice ?: return null
        val vocoder = model.vocoder()
        return Speech(
            talker = talker,
            talkerState = talkerState,
            vocoder = vocoder,
            vocoderState = vocoder.state(voice, longArrayOf(seed, number), settings.solver, settings.chunks),
            voice = model.voiceEmbed(voice),
            positions = context.positions,
            sampling = sampling,
            limit = maxCodecTokens ?: sampling.maxNewTokens,
            seed = longArrayOf(seed, TALKER_STREAM, number),
        )
    }
}
