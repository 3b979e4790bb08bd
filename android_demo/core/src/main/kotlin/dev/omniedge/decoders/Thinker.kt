package dev.omniedge.decoders

import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.LongTensor
import dev.omniedge.backend.MemorySource
import dev.omniedge.numeric.Matrix

/** In [ThinkerBlock.nextIds]: the context cannot be cut here. */
internal const val INSIDE = -1

/**
 * Positions on their way into the Thinker.
 *
 * @property tokens one per position; placeholders in the place of media.
 * @property embeds float32 `[n, hidden]`.
 * @property positions their ids.
 * @property nextIds the id of a text token that would follow each position, [INSIDE] a picture or a video.
 * @property media the embeds come from an encoder; the Talker gets zeros in their place.
 */
class ThinkerBlock(
    val tokens: IntArray,
    val embeds: Matrix,
    val positions: PositionIds,
    val nextIds: IntArray,
    val media: Boolean = false,
) {
    /** Number of positions. */
    val size: Int get() = tokens.size
}

/**
 * Thinker positions as the Talker takes them.
 *
 * @property states float32 `[n, hidden]`; embedding + hidden.
 * @property positions their ids.
 */
class ThinkerStates(val states: Matrix, val positions: PositionIds) {
    /** Number of positions. */
    val size: Int get() = states.rows

    /** The first [count] positions. */
    fun first(count: Int) = ThinkerStates(states.rows(0, count), positions.slice(0, count))

    companion object {
        /** All parts in order; at least one. */
        fun concatenate(parts: List<ThinkerStates>): ThinkerStates = parts.singleOrNull() ?: ThinkerStates(
            Matrix.concatenate(parts.map { it.states }, parts.first().states.columns),
            PositionIds.concatenate(parts.map { it.positions }),
        )
    }
}

/**
 * The token embedding and the Thinker step; immutable.
 *
 * @property decoder the `thinker` graph; closed with this.
 * @param embedding the `token_embedding` graph; closed with this.
 */
class Thinker(val decoder: Decoder, private val embedding: Graph) : AutoCloseable {
    /** An empty context of [capacity] positions in memory from [memory]. */
    fun cache(capacity: Int, memory: MemorySource) = KvCache(decoder.section, capacity, memory)

    /** Embeds of text tokens, float32 `[n, hidden]`. */
    fun embed(tokens: IntArray): Matrix {
        val ids = LongTensor(LongArray(tokens.size) { tokens[it].toLong() }, 1, tokens.size.toLong())
        return embedding.run(mapOf("ids" to ids), listOf("embeds")).single().toMatrix()
    }

    /**
     * Appends the blocks to the context in one go.
     *
     * @return the new positions as the Talker takes them, and the logits float32 `[vocabulary]` after the last one.
     * @throws dev.omniedge.ContextFullException they do not fit; nothing was changed.
     */
    fun step(blocks: List<ThinkerBlock>, cache: KvCache): Pair<ThinkerStates, FloatArray> {
        val width = decoder.section.hiddenSize
        val embeds = Matrix.concatenate(blocks.map { it.embeds }, width)
        val positions = PositionIds.concatenate(blocks.map { it.positions })
        val input = FloatTensor(embeds.values, 1, embeds.rows.toLong(), width.toLong())
        val decoded = decoder.step(mapOf("embeds" to input), positions, cache)
        val states = decoded.hidden
        var row = 0
        for (block in blocks) {
            if (!block.media) {
                val values = block.embeds.values
                for (index in values.indices) states.values[row * width + index] += values[index]
            }
            row += block.embeds.rows
        }
        return ThinkerStates(states, positions) to decoded.logits
    }

    override fun close() {
        decoder.close()
        embedding.close()
    }
}
