package dev.omniedge.conversation

import dev.omniedge.AudioChunk
import dev.omniedge.bundle.SamplingSection
import dev.omniedge.decoders.Positions
import dev.omniedge.decoders.Talker
import dev.omniedge.decoders.TalkerState
import dev.omniedge.decoders.Utterance
import dev.omniedge.vocoder.Vocoder
import dev.omniedge.vocoder.VocoderState

/**
 * The speech of one reply, while its text is still being decoded: Thinker states in, samples out.
 *
 * @property talkerState the context's cache, which holds the prompt.
 * @property vocoderState a fresh utterance.
 * @property voice float32 `[embedding]`; the embed of the speaker's text token.
 * @property positions the ids after the prompt's.
 * @property sampling how codec tokens are drawn.
 * @property limit codec tokens at most.
 * @property seed names the random stream.
 */
internal class Speech(
    private val talker: Talker,
    private val talkerState: TalkerState,
    private val vocoder: Vocoder,
    private val vocoderState: VocoderState,
    private val voice: FloatArray,
    private val positions: Positions,
    private val sampling: SamplingSection,
    private val limit: Int,
    private val seed: LongArray,
) {
    private var utterance: Utterance? = null
    private var finished = false

    /** Those spoken so far. */
    val codecTokens = ArrayList<Int>()

    /** Number of samples so far. */
    var samples = 0
        private set

    /** Time spent in the Talker, in seconds. */
    var talkerSeconds = 0.0
        private set

    /** Time spent in the DiT, in seconds. */
    val ditSeconds: Double get() = vocoderState.ditSeconds

    /** Time spent in BigVGAN, in seconds. */
    val bigvganSeconds: Double get() = vocoderState.bigvganSeconds

    /** Length of the speech so far, in seconds. */
    val audioSeconds: Double get() = samples.toDouble() / vocoder.sampleRate

    /** Takes the state `[embedding]` of the next reply token; returns what became playable, or null. */
    fun feed(thinkerState: FloatArray): AudioChunk? = if (finished) null else speak(thinkerState)

    /** Speaks on behind a complete text, until the Talker closes the utterance or [cancelled] returns true. */
    fun finish(cancelled: () -> Boolean): Sequence<AudioChunk> = sequence {
        if (utterance == null) return@sequence
        var thinkerState = talker.textEnd
        while (!finished) {
            if (cancelled()) return@sequence
            speak(thinkerState)?.let { yield(it) }
            thinkerState = talker.textPad
        }
        chunk(vocoder.step(emptyList(), vocoderState, end = true))?.let { yield(it) }
    }

    private fun speak(thinkerState: FloatArray): AudioChunk? {
        val began = System.nanoTime()
        val codec = utterance?.let { talker.speak(thinkerState, it, talkerState) }
            ?: talker.begin(voice, thinkerState, positions, sampling, seed, talkerState).also { utterance = it }.last
        talkerSeconds += (System.nanoTime() - began) / 1e9
        if (talker.isEnd(codec)) {
            finished = true
            return null
        }
        codecTokens += codec
        finished = codecTokens.size >= limit || talkerState.isFull
        return chunk(vocoder.step(listOf(codec), vocoderState))
    }

    private fun chunk(playable: FloatArray?): AudioChunk? {
        if (playable == null || playable.isEmpty()) return null
        return AudioChunk(playable, vocoder.sampleRate, samples).also { samples += playable.size }
    }
}
