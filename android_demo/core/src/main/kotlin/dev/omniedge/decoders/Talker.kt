package dev.omniedge.decoders

import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.LongTensor
import dev.omniedge.backend.MemorySource
import dev.omniedge.bundle.SamplingSection
import dev.omniedge.bundle.TalkerSection
import dev.omniedge.numeric.Matrix

/**
 * The Talker's cache of one conversation: first the Thinker's positions, behind them the codec tokens of the reply that
 * is being spoken.
 */
class TalkerState internal constructor(internal val cache: KvCache) : AutoCloseable {
    /** Number of the Thinker's positions in the cache. */
    var prefilled: Int = 0
        internal set

    /** Whether the cache has no room for another codec token. */
    val isFull: Boolean get() = cache.offset >= cache.capacity

    /** Forgets the spoken codec tokens and the Thinker's positions from [offset] on. */
    fun trim(offset: Int) {
        prefilled = minOf(prefilled, offset)
        cache.trim(prefilled)
    }

    override fun close() = cache.close()
}

/** A reply while it is spoken. [last] is the codec token that was drawn last. */
class Utterance internal constructor(
    internal val sampler: Sampler,
    internal val positions: Positions,
    var last: Int,
)

/**
 * The Talker step and the rules of its input; immutable.
 *
 * Source: transformers `Qwen2_5OmniForConditionalGeneration.generate` (how its input is put together) and
 * `Qwen2_5OmniTalkerForConditionalGeneration`.
 *
 * @property decoder the `talker` graph; closed with this.
 * @param section its special tokens.
 * @param codecLimit codec tokens from here on have no sound.
 * @property textEnd float32 `[embedding]`; the embed of the mark behind the reply's text.
 * @property textPad float32 `[embedding]`; the embed of the marks behind that one.
 */
class Talker(
    val decoder: Decoder,
    private val section: TalkerSection,
    codecLimit: Int,
    val textEnd: FloatArray,
    val textPad: FloatArray,
) : AutoCloseable {
    // The reference draws from the unused rows behind the codebook too, and fails when one comes.
    private val suppressed: IntArray = (codecLimit until decoder.section.vocabSize)
        .filterNot(::isEnd).plus(section.codecStart).toIntArray()

    /** An empty context of [capacity] positions in memory from [memory]. */
    fun state(capacity: Int, memory: MemorySource) = TalkerState(KvCache(decoder.section, capacity, memory))

    /**
     * Appends Thinker positions; the codec tokens spoken since the last call are forgotten.
     *
     * In a later turn the reference's Talker has the earlier replies as text positions only.
     */
    fun prefill(block: ThinkerStates, state: TalkerState) {
        state.cache.trim(state.prefilled)
        step(IntArray(block.size) { section.noneCodec }, block.states, block.positions, state)
        state.prefilled = state.cache.offset
    }

    /**
     * Starts speaking a reply.
     *
     * @param voice float32 `[embedding]`; the embed of the speaker's text token.
     * @param first float32 `[embedding]`; the state of the reply's first token.
     * @param positions the ids after the prompt's.
     * @param sampling how codec tokens are drawn.
     * @param seed names the random stream.
     * @param state holds the prompt.
     */
    fun begin(
        voice: FloatArray,
        first: FloatArray,
        positions: Positions,
        sampling: SamplingSection,
        seed: LongArray,
        state: TalkerState,
    ): Utterance {
        state.cache.trim(state.prefilled)
        val sampler = Sampler(sampling, *seed, vocabSize = decoder.section.vocabSize, suppress = suppressed)
        // The reference's penalty looks at the prompt's placeholders too.
        sampler.observe(listOf(section.codecMask, section.codecPad, section.codecStart))
        val codec = intArrayOf(section.codecPad, section.codecStart)
        val logits = step(codec, Matrix(2, voice.size, voice + first), positions.text(2), state)
        return Utterance(sampler, positions, sampler.draw(logits))
    }

    /**
     * The next codec token.
     *
     * @param thinkerState float32 `[embedding]`; that of the reply's next token, or [textEnd], then [textPad].
     */
    fun speak(thinkerState: FloatArray, utterance: Utterance, state: TalkerState): Int {
        val states = Matrix(1, thinkerState.size, thinkerState)
        val logits = step(intArrayOf(utterance.last), states, utterance.positions.continued(1), state)
        utterance.last = utterance.sampler.draw(logits)
        return utterance.last
    }

    /** Whether [codec] closes the utterance. */
    fun isEnd(codec: Int): Boolean = codec == section.codecPad || codec == section.codecEnd

    override fun close() = decoder.close()

    private fun step(codec: IntArray, states: Matrix, positions: PositionIds, state: TalkerState): FloatArray {
        val count = codec.size.toLong()
        val inputs = mapOf(
            "codec_ids" to LongTensor(LongArray(codec.size) { codec[it].toLong() }, 1, count),
            "states" to FloatTensor(states.values, 1, count, states.columns.toLong()),
        )
        return decoder.step(inputs, positions, state.cache).logits
    }
}
