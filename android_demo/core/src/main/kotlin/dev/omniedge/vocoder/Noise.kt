package dev.omniedge.vocoder

import dev.omniedge.numeric.Normal
import dev.omniedge.numeric.Philox
import dev.omniedge.numeric.SeedSequence

/**
 * The noise at which sampling of the DiT starts: N(0, 1), addressed by block. A window computes its look-ahead blocks
 * again in the next chunk, from the same noise.
 *
 * @param seed non-negative numbers; equal ones give the noise of Python's runtime.
 * @param values values of a block: its frames times the mel channels.
 */
internal class Noise(vararg seed: Long, private val values: Int) {
    private val key = SeedSequence(*seed).state(2)

    /** The noise of block number [block] of the utterance, float32 `[block_frames * mel_dim]`. */
    fun block(block: Int): FloatArray {
        val random = Philox(key, block.toLong())
        return FloatArray(values) { Normal.next(random) }
    }
}
