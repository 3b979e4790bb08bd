package dev.omniedge.numeric

/**
 * The 128-bit congruential generator PCG XSL RR 128/64, seeded as `numpy.random.default_rng` seeds it.
 *
 * Source: Melissa O'Neill, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms".
 */
class Pcg64(seed: SeedSequence) {
    private var high = 0L
    private var low = 0L
    private val incrementHigh: Long
    private val incrementLow: Long

    init {
        val (stateHigh, stateLow, streamHigh, streamLow) = seed.state(4).asList()
        incrementHigh = (streamHigh shl 1) or (streamLow ushr 63)
        incrementLow = (streamLow shl 1) or 1
        step()
        add(stateHigh, stateLow)
        step()
    }

    /** A number from 0 to 1, the latter excluded, with 53 random bits. */
    fun nextDouble(): Double = (nextLong() ushr 11) * DOUBLE_STEP

    private fun nextLong(): Long {
        step()
        return (high xor low).rotateRight((high ushr 58).toInt())
    }

    private fun step() {
        val productHigh = multiplyHighUnsigned(low, FACTOR_LOW) + high * FACTOR_LOW + low * FACTOR_HIGH
        low *= FACTOR_LOW
        high = productHigh
        add(incrementHigh, incrementLow)
    }

    private fun add(addedHigh: Long, addedLow: Long) {
        low += addedLow
        high += addedHigh + if (low.toULong() < addedLow.toULong()) 1 else 0
    }

    private companion object {
        const val FACTOR_HIGH = 0x2360ed051fc65da4L
        const val FACTOR_LOW = 0x4385df649fccf645L
        const val DOUBLE_STEP = 1.0 / (1L shl 53)
    }
}

/** The high 64 bits of the product of two unsigned numbers; `Math.multiplyHigh` is newer than the oldest Android here. */
internal fun multiplyHighUnsigned(left: Long, right: Long): Long {
    val mask = 0xffffffffL
    val leftLow = left and mask
    val leftHigh = left ushr 32
    val rightLow = right and mask
    val rightHigh = right ushr 32
    val middle = leftHigh * rightLow + ((leftLow * rightLow) ushr 32)
    val carried = leftLow * rightHigh + (middle and mask)
    return leftHigh * rightHigh + (middle ushr 32) + (carried ushr 32)
}
