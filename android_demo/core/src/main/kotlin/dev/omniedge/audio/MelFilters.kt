package dev.omniedge.audio

import kotlin.math.exp
import kotlin.math.ln
import kotlin.math.max
import kotlin.math.min

// The Slaney scale (Malcolm Slaney's Auditory Toolbox): linear up to 1 kHz, logarithmic above.
private const val HZ_PER_MEL = 200.0 / 3.0
private const val BREAK_HZ = 1000.0
private const val BREAK_MEL = BREAK_HZ / HZ_PER_MEL
private val LOG_STEP = ln(6.4) / 27.0

/** A triangular filter: [weights] of the frequencies from number [first] on. */
internal class MelFilter(private val first: Int, private val weights: DoubleArray) {
    /** The weighted sum of [power]. */
    fun apply(power: DoubleArray): Double {
        var sum = 0.0
        for (index in weights.indices) sum += power[first + index] * weights[index]
        return sum
    }
}

/** Triangular mel filters of unit area on the Slaney scale, from 0 Hz to Nyquist. */
internal fun melFilters(sampleRate: Int, nFft: Int, nMels: Int): List<MelFilter> {
    val nyquist = sampleRate / 2.0
    val edges = DoubleArray(nMels + 2) { melToHz(hzToMel(nyquist) * it / (nMels + 1)) }
    val bins = DoubleArray(nFft / 2 + 1) { nyquist * it / (nFft / 2) }
    return List(nMels) { channel ->
        val (left, centre, right) = edges.asList().subList(channel, channel + 3)
        val weights = bins.map { hz ->
            val triangle = max(min((hz - left) / (centre - left), (right - hz) / (right - centre)), 0.0)
            triangle * (2.0 / (right - left))
        }
        val first = weights.indexOfFirst { it > 0 }.coerceAtLeast(0)
        MelFilter(first, weights.subList(first, weights.indexOfLast { it > 0 } + 1).toDoubleArray())
    }
}

private fun hzToMel(hz: Double): Double =
    if (hz < BREAK_HZ) hz / HZ_PER_MEL else BREAK_MEL + ln(hz / BREAK_HZ) / LOG_STEP

private fun melToHz(mel: Double): Double =
    if (mel < BREAK_MEL) mel * HZ_PER_MEL else BREAK_HZ * exp(LOG_STEP * (mel - BREAK_MEL))
