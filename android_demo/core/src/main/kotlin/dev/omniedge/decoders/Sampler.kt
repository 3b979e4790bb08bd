package dev.omniedge.decoders

import dev.omniedge.bundle.SamplingSection
import dev.omniedge.numeric.Pcg64
import dev.omniedge.numeric.SeedSequence
import kotlin.math.exp

/** What chooses the next token. */
internal fun interface TokenSource {
    /** The next token for [logits], float32 `[vocabulary]`. */
    fun draw(logits: FloatArray): Int
}

/** Tokens that are given in their order, the closing one included; the logits do not matter. */
internal class GivenTokens(tokens: List<Int>) : TokenSource {
    private val tokens = tokens.iterator()

    override fun draw(logits: FloatArray): Int = tokens.next()
}

/**
 * Draws tokens: repetition penalty, temperature, top-k, top-p, in the reference's order. Equal seeds draw the tokens
 * that Python's runtime draws.
 *
 * Source: transformers `RepetitionPenaltyLogitsProcessor`, `TemperatureLogitsWarper`, `TopKLogitsWarper`,
 * `TopPLogitsWarper`.
 *
 * @param settings complete settings.
 * @param seed numbers that name the random stream.
 * @param vocabSize number of logits.
 * @param suppress tokens that are never drawn.
 */
internal class Sampler(
    private val settings: SamplingSection,
    vararg seed: Long,
    vocabSize: Int,
    private val suppress: IntArray = IntArray(0),
) : TokenSource {
    private val random = Pcg64(SeedSequence(*seed))
    private val seen = BooleanArray(vocabSize)

    /** Counts [tokens] as having occurred. */
    fun observe(tokens: List<Int>) {
        for (token in tokens) seen[token] = true
    }

    /** The next token for [logits], float32 `[vocabulary]`; it counts as having occurred. */
    override fun draw(logits: FloatArray): Int {
        val scores = logits.clone()
        val penalty = settings.repetitionPenalty.toFloat()
        if (penalty != 1f) {
            for (token in scores.indices) {
                if (seen[token]) scores[token] = if (scores[token] < 0) scores[token] * penalty else scores[token] / penalty
            }
        }
        for (token in suppress) scores[token] = Float.NEGATIVE_INFINITY
        val token = if (settings.temperature == 0.0) best(scores) else random(scores)
        seen[token] = true
        return token
    }

    private fun best(scores: FloatArray): Int {
        var best = 0
        for (token in scores.indices) if (scores[token] > scores[best]) best = token
        return best
    }

    private fun random(scores: FloatArray): Int {
        val kept = if (settings.topK in 1 until scores.size) largest(scores, settings.topK) else ascending(scores)
        val top = scores[token(kept.last())] / settings.temperature
        val weights = DoubleArray(kept.size) { exp(scores[token(kept[it])] / settings.temperature - top) }
        normalize(weights)
        if (settings.topP < 1) {
            var sum = 0.0
            for (index in 0 until weights.size - 1) {
                sum += weights[index]
                if (sum <= 1 - settings.topP) weights[index] = 0.0
            }
            normalize(weights)
        }
        val drawn = random.nextDouble()
        var sum = 0.0
        for (index in weights.indices) {
            sum += weights[index]
            if (drawn < sum) return token(kept[index])
        }
        return token(kept.last())
    }

    private fun normalize(weights: DoubleArray) {
        val sum = weights.sum()
        for (index in weights.indices) weights[index] /= sum
    }

    /** Keys of all tokens, ascending. */
    private fun ascending(scores: FloatArray): LongArray = LongArray(scores.size) { key(scores[it], it) }.apply { sort() }

    /** Keys of the [count] largest scores, ascending. */
    private fun largest(scores: FloatArray, count: Int): LongArray {
        val kept = LongArray(count) { key(scores[it], it) }.apply { sort() }
        for (token in count until scores.size) {
            val key = key(scores[token], token)
            if (key < kept[0]) continue
            // Few tokens come here: the list is soon that of a vocabulary's best.
            var place = 1
            while (place < count && kept[place] < key) {
                kept[place - 1] = kept[place]
                place++
            }
            kept[place - 1] = key
        }
        return kept
    }

    /** A number that rises with the score and, among equal ones, with the token. */
    private fun key(score: Float, token: Int): Long {
        val bits = score.toRawBits()
        val ordered = bits xor ((bits shr 31) and Int.MAX_VALUE)
        return (ordered.toLong() shl Int.SIZE_BITS) or token.toLong()
    }

    private fun token(key: Long): Int = key.toInt()
}
