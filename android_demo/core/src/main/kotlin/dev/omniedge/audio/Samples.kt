package dev.omniedge.audio

import dev.omniedge.MediaException
import kotlin.math.abs

// Decoders and resamplers overshoot [-1, 1] by a little; far beyond it the numbers are integers stored as floats.
private const val LOUDEST_SAMPLE = 16f
private val RATES = 1_000..384_000

/**
 * [samples], once they are sure to be a sound.
 *
 * @throws MediaException a value is no number, or lies far outside of -1 to 1.
 */
internal fun validatePcm(samples: FloatArray): FloatArray {
    var loudest = 0f
    for (sample in samples) {
        if (!sample.isFinite()) {
            throw MediaException("The sound holds values that are no numbers (NaN or infinite). Check its source.")
        }
        loudest = maxOf(loudest, abs(sample))
    }
    if (loudest > LOUDEST_SAMPLE) {
        throw MediaException(
            "The sound reaches $loudest, but float samples lie in -1 to 1. " +
                "If they are 16-bit integers stored as floats, divide them by 32768.",
        )
    }
    return samples
}

/**
 * [rate], once it is sure to be one of a sound, in Hz.
 *
 * @throws MediaException it is none that a sound card or a file uses.
 */
internal fun validateRate(rate: Int): Int {
    if (rate !in RATES) throw MediaException("A sample rate lies from ${RATES.first} to ${RATES.last} Hz, not at $rate.")
    return rate
}
