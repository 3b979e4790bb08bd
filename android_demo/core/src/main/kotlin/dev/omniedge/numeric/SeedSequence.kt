package dev.omniedge.numeric

/**
 * Hashes a list of numbers into the seed of a random generator, as `numpy.random.SeedSequence` does.
 *
 * Source: Melissa O'Neill, "Developing a seed_seq alternative"; numpy's documentation of `SeedSequence`.
 *
 * @param entropy non-negative numbers, 63 bits at most each.
 */
class SeedSequence(vararg entropy: Long) {
    private val pool = IntArray(POOL_WORDS)

    init {
        require(entropy.all { it >= 0 }) { "seeds are 0 or more, not ${entropy.toList()}" }
        val words = entropy.flatMap { number ->
            val high = (number ushr Int.SIZE_BITS).toInt()
            if (high == 0) listOf(number.toInt()) else listOf(number.toInt(), high)
        }
        val hash = Hash(FIRST_HASH, HASH_FACTOR)
        for (index in pool.indices) pool[index] = hash(words.getOrElse(index) { 0 })
        for (source in pool.indices) {
            for (target in pool.indices) {
                if (source != target) pool[target] = mix(pool[target], hash(pool[source]))
            }
        }
        for (word in words.drop(POOL_WORDS)) {
            for (target in pool.indices) pool[target] = mix(pool[target], hash(word))
        }
    }

    /** The first [count] 64-bit words of the seed. */
    fun state(count: Int): LongArray {
        val hash = Hash(FIRST_OUTPUT_HASH, OUTPUT_HASH_FACTOR)
        val halves = LongArray(2 * count) { hash(pool[it % POOL_WORDS]).toLong() and LOW_WORD }
        return LongArray(count) { halves[2 * it] or (halves[2 * it + 1] shl Int.SIZE_BITS) }
    }

    private class Hash(private var value: Int, private val factor: Int) {
        operator fun invoke(word: Int): Int {
            val mixed = word xor value
            value *= factor
            val product = mixed * value
            return product xor (product ushr SHIFT)
        }
    }

    private fun mix(left: Int, right: Int): Int {
        val difference = LEFT_FACTOR * left - RIGHT_FACTOR * right
        return difference xor (difference ushr SHIFT)
    }

    private companion object {
        const val POOL_WORDS = 4
        const val SHIFT = 16
        const val LOW_WORD = 0xffffffffL
        const val FIRST_HASH = 0x43b0d7e5
        const val HASH_FACTOR = 0x931e8875.toInt()
        const val FIRST_OUTPUT_HASH = 0x8b51f9dd.toInt()
        const val OUTPUT_HASH_FACTOR = 0x58f38ded
        const val LEFT_FACTOR = 0xca01f9dd.toInt()
        const val RIGHT_FACTOR = 0x4973f715
    }
}
