package dev.omniedge.numeric

/**
 * The counter-based generator Philox 4x64 with ten rounds, as `numpy.random.Philox`.
 *
 * Source: Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3" (SC 2011).
 *
 * @param key two words.
 * @param index the most significant word of the counter at the start; the others are 0.
 */
class Philox(key: LongArray, index: Long) {
    private val firstKey = key[0]
    private val secondKey = key[1]
    private val counter = longArrayOf(0, 0, 0, index)
    private val words = IntArray(2 * counter.size)
    private var used = words.size

    /** The next 32 random bits. */
    fun nextInt(): Int {
        if (used == words.size) refill()
        return words[used++]
    }

    /** A number from 0 to 1, the latter excluded, with 24 random bits. */
    fun nextFloat(): Float = (nextInt() ushr 8) * FLOAT_STEP

    private fun refill() {
        for (position in counter.indices) {
            counter[position]++
            if (counter[position] != 0L) break
        }
        var (a, b, c, d) = counter.asList()
        var keyA = firstKey
        var keyB = secondKey
        repeat(ROUNDS) { round ->
            if (round > 0) {
                keyA += KEY_STEP_A
                keyB += KEY_STEP_B
            }
            val highA = multiplyHighUnsigned(FACTOR_A, a)
            val lowA = FACTOR_A * a
            val highC = multiplyHighUnsigned(FACTOR_C, c)
            val lowC = FACTOR_C * c
            a = highC xor b xor keyA
            b = lowC
            c = highA xor d xor keyB
            d = lowA
        }
        longArrayOf(a, b, c, d).forEachIndexed { position, word ->
            words[2 * position] = word.toInt()
            words[2 * position + 1] = (word ushr Int.SIZE_BITS).toInt()
        }
        used = 0
    }

    private companion object {
        const val ROUNDS = 10
        const val FLOAT_STEP = 1f / (1 shl 24)
        val FACTOR_A = 0xd2e7470ee14c6c93uL.toLong()
        val FACTOR_C = 0xca5a826395121157uL.toLong()
        val KEY_STEP_A = 0x9e3779b97f4a7c15uL.toLong()
        val KEY_STEP_B = 0xbb67ae8584caa73buL.toLong()
    }
}
