package dev.omniedge.audio

import dev.omniedge.MediaException
import dev.omniedge.bundle.AudioSection
import dev.omniedge.numeric.Matrix
import kotlin.math.max

/**
 * One input of the audio encoder.
 *
 * @property frames mel, float32 `[n_mels, T]`, normalised; T is the manifest's `block_frames`, or less at the end.
 */
class AudioBlock(val frames: Matrix) {
    /** Audio tokens that the encoder makes of this block. */
    val tokens: Int get() = audioTokens(frames.columns)
}

/**
 * The state of one sound.
 *
 * @property rate samples per second of the input.
 */
class AudioFrontEndState private constructor(
    val rate: Int,
    internal val resampler: Resampler,
    internal val resample: ResampleState,
    internal val mel: LogMelState,
) {
    internal constructor(rate: Int, resampler: Resampler) : this(rate, resampler, ResampleState(), LogMelState())

    /** Maximum log-mel value that blocks are normalised by; a whole clip starts with its own. */
    internal var loudest = Float.NEGATIVE_INFINITY

    /** log10 power that is not in a block yet, float32 `[frames, n_mels]`; null: none. */
    internal var waiting: Matrix? = null

    /** Whether the sound is complete. */
    var ended = false
        internal set

    /** The same state, independent of what comes later. */
    internal fun copy() = AudioFrontEndState(rate, resampler, resample.copy(), mel.copy()).also {
        it.loudest = loudest
        it.waiting = waiting
        it.ended = ended
    }
}

/**
 * Cuts sound into blocks for the audio encoder; immutable, shared by any number of sounds.
 *
 * A whole clip is normalised by its loudest value; each block of a live sound by the largest value from the start of
 * the sound up to its own end (docs/streaming.md).
 */
class AudioFrontEnd(private val section: AudioSection) {
    private val logMel = LogMel(section)
    private val resamplers = HashMap<Int, Resampler>()

    /**
     * A fresh sound of [rate] samples per second.
     *
     * @throws MediaException the rate is not one of a sound.
     */
    fun state(rate: Int): AudioFrontEndState {
        val resampler = synchronized(resamplers) { resamplers.getOrPut(rate) { Resampler(rate, section.sampleRate) } }
        return AudioFrontEndState(rate, resampler)
    }

    /**
     * Takes the next samples of a live sound and returns the blocks that are now complete.
     *
     * @param samples float32 `[n]` at the state's rate; may be empty.
     * @param end the sound is complete; its remainder is returned as a shorter block. One or two left-over frames make
     *   no token and are dropped.
     * @throws MediaException the samples are not a sound; with [end], the sound is too short for one audio token.
     */
    fun step(samples: FloatArray, state: AudioFrontEndState, end: Boolean = false): List<AudioBlock> {
        val frames = frames(samples, state, end)
        if (end) checkLength(state)
        return cut(frames, state, end)
    }

    /**
     * All blocks of a whole sound, normalised by its maximum.
     *
     * @throws MediaException the samples or the rate are not those of a sound, or it is too short for one audio token.
     */
    fun clip(samples: FloatArray, rate: Int): List<AudioBlock> {
        val state = state(rate)
        val frames = frames(samples, state, end = true)
        checkLength(state)
        state.loudest = state.mel.peak
        return cut(frames, state, end = true)
    }

    /** Audio tokens of a sound of [samples] samples at [rate]; 0: it is too short for one. */
    fun tokens(samples: Int, rate: Int): Int {
        val converted = ceilDivide(samples.toLong() * section.sampleRate, validateRate(rate).toLong())
        return audioTokens(ceilDivide(converted, section.hopLength.toLong()).toInt())
    }

    private fun frames(samples: FloatArray, state: AudioFrontEndState, end: Boolean): Matrix {
        validatePcm(samples)
        state.ended = end
        return logMel.step(state.resampler.step(samples, state.resample, end), state.mel, end)
    }

    private fun checkLength(state: AudioFrontEndState) {
        if (audioTokens(state.mel.frames) > 0) return
        val milliseconds = state.mel.received * 1000L / section.sampleRate
        throw MediaException("The sound lasts $milliseconds ms, too short for one audio token. Use a longer one.")
    }

    private fun cut(frames: Matrix, state: AudioFrontEndState, end: Boolean): List<AudioBlock> {
        val waiting = Matrix.concatenate(listOfNotNull(state.waiting, frames), section.nMels)
        val blocks = ArrayList<AudioBlock>()
        var start = 0
        while (waiting.rows - start >= if (end) 1 else section.blockFrames) {
            val cut = waiting.rows(start, minOf(start + section.blockFrames, waiting.rows))
            start += cut.rows
            val last = end && start == waiting.rows
            state.loudest = max(state.loudest, if (last) state.mel.peak else cut.values.max())
            if (audioTokens(cut.rows) > 0) blocks += AudioBlock(normalize(cut, state.loudest))
        }
        state.waiting = waiting.rows(start, waiting.rows)
        return blocks
    }
}

/** Audio tokens of [frames] mel frames: a convolution halves them (rounding up), pooling halves again (down). */
internal fun audioTokens(frames: Int): Int = (frames + 1) / 2 / 2

private fun ceilDivide(dividend: Long, divisor: Long): Long = (dividend + divisor - 1) / divisor
