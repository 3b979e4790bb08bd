package dev.omniedge.audio

import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.ceil
import kotlin.math.sin
import kotlin.math.sqrt

// Zero crossings of the sinc on each side, counted at the lower of the two rates: 64 at 16 kHz look 4 ms ahead.
private const val ZERO_CROSSINGS = 64

// Cutoff as a part of the lower rate's Nyquist frequency, and the Kaiser window's shape.
private const val CUTOFF = 0.96
private const val KAISER_BETA = 7.9

/** The state of one stream: input samples that later outputs still need, and counts of samples so far. */
internal data class ResampleState(
    var pending: FloatArray = FloatArray(0),
    var received: Long = 0,
    var emitted: Long = 0,

    /** Index in the stream of the first pending sample; negative in the silence before the start. */
    var origin: Long = 0,
)

/**
 * Converts sound from [source] to [target] samples per second; immutable, shared by any number of streams.
 *
 * n samples become ceil(n * target / source). The output does not depend on how the input is split. It is a
 * windowed-sinc filter (Julius O. Smith, "Digital Audio Resampling"; Kaiser window), one row of weights for each phase
 * that an output can have between two inputs.
 *
 * @throws dev.omniedge.MediaException a rate is not one of a sound.
 */
internal class Resampler(source: Int, target: Int) {
    private val up: Int
    private val down: Int
    private val reach: Int
    private val phases: Array<FloatArray>

    init {
        val divisor = greatestDivisor(validateRate(source), validateRate(target))
        up = target / divisor
        down = source / divisor
        val bandwidth = minOf(1.0, target.toDouble() / source)
        reach = ceil(ZERO_CROSSINGS / bandwidth).toInt()
        phases = if (up == down) emptyArray() else Array(up) { weights(it, bandwidth) }
    }

    /**
     * Takes the next input samples and returns the output samples that are complete.
     *
     * @param samples float32 `[n]` at the source's rate; may be empty.
     * @param end the stream is complete: silence follows, and all outputs are returned.
     * @return float32 `[m]` at the target's rate.
     */
    fun step(samples: FloatArray, state: ResampleState, end: Boolean): FloatArray {
        if (up == down) return samples
        if (state.received == 0L && state.pending.isEmpty()) {
            state.pending = FloatArray(reach)
            state.origin = -reach.toLong()
        }
        state.received += samples.size
        state.pending += samples
        var last = lastOutput(state.origin + state.pending.size)
        if (end) {
            last = (state.received * up + down - 1) / down
            val missing = (last * down / up + reach + 1 - state.origin - state.pending.size).coerceAtLeast(0)
            state.pending += FloatArray(missing.toInt())
        }
        val output = FloatArray((last - state.emitted).coerceAtLeast(0).toInt()) { convert(state.emitted + it, state) }
        state.emitted += output.size
        val kept = (first(state.emitted) - state.origin).coerceIn(0, state.pending.size.toLong()).toInt()
        state.pending = state.pending.copyOfRange(kept, state.pending.size)
        state.origin += kept
        return output
    }

    private fun convert(output: Long, state: ResampleState): Float {
        val weights = phases[(output % up).toInt()]
        val start = (first(output) - state.origin).toInt()
        var sum = 0.0
        for (tap in weights.indices) sum += weights[tap].toDouble() * state.pending[start + tap]
        return sum.toFloat()
    }

    /** Index in the stream of the first sample that an output reads. */
    private fun first(output: Long): Long = output * down / up - reach

    /** Number of outputs that read nothing at or after index [sample]. */
    private fun lastOutput(sample: Long): Long {
        // first(output) + taps <= sample, with floor(output * down / up) in first.
        val room = sample - taps + reach
        return if (room < 0) 0 else ((room + 1) * up - 1) / down + 1
    }

    private val taps get() = 2 * reach + 1

    /** The weights of the outputs that lie [phase] / up behind an input; they sum to one. */
    private fun weights(phase: Int, bandwidth: Double): FloatArray {
        // Phases come in the order of the outputs, which advance by down / up.
        val offset = (phase.toLong() * down % up).toDouble() / up
        val weights = DoubleArray(taps) { tap ->
            val distance = offset + reach - tap
            if (abs(distance) > reach) return@DoubleArray 0.0
            val window = bessel(KAISER_BETA * sqrt(1 - (distance / reach) * (distance / reach)))
            sinc(CUTOFF * bandwidth * distance) * window
        }
        val sum = weights.sum()
        return FloatArray(taps) { (weights[it] / sum).toFloat() }
    }

    private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(PI * x) / (PI * x)

    /** The modified Bessel function of order 0, by its power series. */
    private fun bessel(x: Double): Double {
        var term = 1.0
        var sum = 1.0
        var index = 1
        while (term > sum * PRECISION) {
            term *= (x / (2 * index)) * (x / (2 * index))
            sum += term
            index++
        }
        return sum
    }

    private fun greatestDivisor(a: Int, b: Int): Int = if (b == 0) a else greatestDivisor(b, a % b)

    private companion object {
        const val PRECISION = 1e-17
    }
}
