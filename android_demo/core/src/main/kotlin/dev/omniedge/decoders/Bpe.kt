package dev.omniedge.decoders

/**
 * Byte-level byte-pair encoding: pieces of text to tokens.
 *
 * Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units"; the byte alphabet is GPT-2's.
 *
 * @param vocabulary token, written in the byte alphabet, to id.
 * @param merges pairs of tokens, the one to merge first in front.
 */
internal class Bpe(vocabulary: Map<String, Int>, merges: List<Pair<String, String>>) {
    private val bytes = IntArray(ALPHABET.size) { vocabulary[ALPHABET[it].toString()] ?: MISSING }

    /** `left << 32 | right` of every merge, ascending, beside its rank. */
    private val pairs: LongArray
    private val ranks: IntArray

    /** What the merge of each rank gives. */
    private val results = IntArray(merges.size)

    init {
        val keys = LongArray(merges.size) { rank ->
            val (left, right) = merges[rank]
            results[rank] = vocabulary.getValue(left + right)
            key(vocabulary.getValue(left), vocabulary.getValue(right))
        }
        val order = keys.indices.sortedBy { keys[it] }
        pairs = LongArray(keys.size) { keys[order[it]] }
        ranks = order.toIntArray()
    }

    /** Appends the tokens of [piece] to [tokens]; nothing merges across pieces. */
    fun encode(piece: String, tokens: MutableList<Int>) {
        val parts = piece.toByteArray().mapTo(ArrayList()) { bytes[it.toInt() and 0xff] }
        while (parts.size > 1) {
            var best = Int.MAX_VALUE
            var place = 0
            for (index in 0 until parts.size - 1) {
                val rank = rank(parts[index], parts[index + 1])
                if (rank < best) {
                    best = rank
                    place = index
                }
            }
            if (best == Int.MAX_VALUE) break
            parts[place] = results[best]
            parts.removeAt(place + 1)
        }
        parts.filterTo(tokens) { it != MISSING }
    }

    private fun rank(left: Int, right: Int): Int {
        val place = pairs.binarySearch(key(left, right))
        return if (place >= 0) ranks[place] else Int.MAX_VALUE
    }

    private fun key(left: Int, right: Int): Long = (left.toLong() shl Int.SIZE_BITS) or right.toLong()

    companion object {
        private const val MISSING = -1

        /** The character that stands for each byte in a vocabulary: itself where it can be printed. */
        private val ALPHABET = CharArray(256).also { alphabet ->
            var next = alphabet.size
            for (byte in alphabet.indices) {
                val printable = byte in 33..126 || byte in 161..172 || byte in 174..255
                alphabet[byte] = if (printable) byte.toChar() else (next++).toChar()
            }
        }
        private val BYTES = ALPHABET.withIndex().associate { (byte, char) -> char to byte.toByte() }

        /** The bytes of a token; one that is not written in the byte alphabet is text. */
        fun bytes(token: String): ByteArray =
            if (token.all { it in BYTES }) ByteArray(token.length) { BYTES.getValue(token[it]) } else token.toByteArray()
    }
}
