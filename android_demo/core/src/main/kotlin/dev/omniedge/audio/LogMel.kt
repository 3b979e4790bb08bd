package dev.omniedge.audio

import dev.omniedge.bundle.AudioSection
import dev.omniedge.numeric.Fourier
import dev.omniedge.numeric.Matrix
import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.log10
import kotlin.math.max

// Whisper's dynamic range: power below 1e-10, or 8 decades below the clip's loudest value, is silence.
private const val POWER_FLOOR = 1e-10
private const val RANGE_DECADES = 8f

/**
 * The state of one sound.
 *
 * [pending] are samples that later frames still need, the mirrored start included; [received] samples and [frames]
 * frames so far; [peak] the largest log10 power so far, after the end that of the whole clip as the reference takes it.
 */
internal data class LogMelState(
    var pending: FloatArray = FloatArray(0),
    var received: Int = 0,
    var frames: Int = 0,
    var peak: Float = Float.NEGATIVE_INFINITY,
)

/**
 * Streaming log-mel, equal to Python's `LogMel`; window and filters of one manifest, immutable.
 *
 * Frame k is centred on sample k * hop. At the true start the signal is mirrored; after the end comes silence. A clip of
 * n samples counts ceil(n / hop) frames; frames beyond those take part in the clip's maximum only.
 */
internal class LogMel(section: AudioSection) {
    private val hop = section.hopLength
    private val size = section.nFft
    private val window = DoubleArray(size) { 0.5 - 0.5 * cos(2 * PI * it / size) }
    private val fourier = Fourier(size)
    private val filters = melFilters(section.sampleRate, size, section.nMels)

    /**
     * Takes the next samples and returns the frames whose samples are all there.
     *
     * @param samples float32 `[n]` at the manifest's rate; may be empty.
     * @param end the sound is complete: the remaining frames follow, as if silence came after it.
     * @return log10 of the power, float32 `[frames, n_mels]`, not yet normalised.
     */
    fun step(samples: FloatArray, state: LogMelState, end: Boolean): Matrix {
        val half = size / 2
        val mirrored = state.received > half
        state.received += samples.size
        var signal = state.pending + samples
        // Enough silence to complete every frame that covers a sample of the clip.
        if (end) signal += FloatArray(size + hop)
        if (!mirrored) {
            if (signal.size <= half) {
                state.pending = signal
                return Matrix(0, filters.size)
            }
            signal = FloatArray(half) { signal[half - it] } + signal
        }
        state.pending = signal
        var frames = transform(state)
        for (value in frames.values) state.peak = max(state.peak, value)
        if (end) frames = frames.rows(0, (state.received + hop - 1) / hop - state.frames)
        state.frames += frames.rows
        return frames
    }

    /** log10 power of all complete frames; drops the samples that no later frame reads. */
    private fun transform(state: LogMelState): Matrix {
        val count = max(0, (state.pending.size - size + hop) / hop)
        val output = Matrix(count, filters.size)
        val windowed = DoubleArray(size)
        for (frame in 0 until count) {
            for (index in 0 until size) windowed[index] = state.pending[frame * hop + index] * window[index]
            val power = fourier.power(windowed)
            for ((channel, filter) in filters.withIndex()) {
                output[frame, channel] = log10(max(filter.apply(power), POWER_FLOOR)).toFloat()
            }
        }
        if (count > 0) state.pending = state.pending.copyOfRange(count * hop, state.pending.size)
        return output
    }
}

/**
 * Whisper's scaling, `(max(x, clip maximum - 8) + 4) / 4`, into the layout of the audio encoder.
 *
 * @param logPower float32 `[frames, n_mels]`.
 * @return float32 `[n_mels, frames]`.
 */
internal fun normalize(logPower: Matrix, clipMax: Float): Matrix {
    val floor = clipMax - RANGE_DECADES
    val scaled = logPower.transposed()
    for (index in scaled.values.indices) scaled.values[index] = (max(scaled.values[index], floor) + 4f) / 4f
    return scaled
}
