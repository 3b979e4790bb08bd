package dev.omniedge.conversation

import dev.omniedge.decoders.PositionIds
import dev.omniedge.decoders.ThinkerBlock
import dev.omniedge.numeric.Matrix

/**
 * What a context needs to prefill its positions again at another place: their ids and, where [keepsMedia], the embeds of
 * sound and pictures.
 *
 * @param capacity positions at most.
 */
internal class History(capacity: Int) {
    private class Media(val start: Int, val embeds: Matrix)

    private val ids = PositionIds(IntArray(capacity), IntArray(capacity), IntArray(capacity))
    private var media: List<Media> = emptyList()

    /** Whether the embeds are kept; 4 bytes for each value of the Thinker's hidden size and position. */
    var keepsMedia = false

    /** The positions from here on can be prefilled again. */
    var keptFrom = 0
        private set

    /** Blocks that were prefilled from [offset] on. */
    fun add(offset: Int, blocks: List<ThinkerBlock>) {
        var start = offset
        for (block in blocks) {
            for ((all, some) in ids.axes.zip(block.positions.axes)) some.copyInto(all, start)
            if (block.media && keepsMedia) media = media + Media(start, block.embeds)
            start += block.size
            if (block.media && !keepsMedia) keptFrom = start
        }
    }

    /** Forgets the positions from [to] on. */
    fun trim(to: Int) {
        keptFrom = minOf(keptFrom, to)
        media = media.filter { it.start < to }
            .map { if (it.start + it.embeds.rows <= to) it else Media(it.start, it.embeds.rows(0, to - it.start)) }
    }

    /** The positions up to [to] cannot be prefilled again. */
    fun lose(to: Int) {
        keptFrom = to
    }

    /** All positions that are left can be prefilled again. */
    fun keep() {
        keptFrom = 0
    }

    /**
     * The positions from [start] on, their ids lower by [by]; [start] is [keptFrom] or later.
     *
     * @param tokens those of the positions.
     * @param nextIds those of the positions, lower by [by].
     * @param embed gives the embeds of text tokens.
     */
    fun blocks(
        start: Int,
        tokens: IntArray,
        nextIds: IntArray,
        by: Int,
        embed: (IntArray) -> Matrix,
    ): List<ThinkerBlock> {
        val moved = ids.slice(start, start + tokens.size) + -by
        val blocks = ArrayList<ThinkerBlock>()
        var done = 0

        fun add(to: Int, embeds: Matrix?) {
            if (to == done) return
            val some = tokens.copyOfRange(done, to)
            val following = nextIds.copyOfRange(done, to)
            blocks += ThinkerBlock(some, embeds ?: embed(some), moved.slice(done, to), following, media = embeds != null)
            done = to
        }

        for (piece in media.filter { it.start >= start }) {
            add(piece.start - start, null)
            add(done + piece.embeds.rows, piece.embeds)
        }
        add(tokens.size, null)
        return blocks
    }
}
