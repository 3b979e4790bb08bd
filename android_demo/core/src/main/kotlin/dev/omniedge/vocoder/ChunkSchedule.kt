package dev.omniedge.vocoder

import dev.omniedge.UsageException

/** What a block sees of the blocks behind it; docs/streaming.md has the rules and their latency. */
enum class ChunkOrder {
    /** A chunk is computed together with a provisional look-ahead, which the next chunk computes again. */
    WINDOW,

    /** A block waits before each evaluation until the next block has come as far; equals the whole utterance. */
    WAVEFRONT,
}

/**
 * How an utterance is divided into chunks.
 *
 * @property lookAheadBlocks provisional blocks behind those that a chunk of the window order finishes.
 * @property chunkBlocks blocks that the first, second, ... chunk finishes; the last number holds for all later chunks.
 *   Empty: one chunk at the end of the reply.
 * @throws UsageException a number below 1.
 */
data class ChunkSchedule(
    val lookAheadBlocks: Int = 1,
    val chunkBlocks: List<Int> = listOf(1, 2, 4),
    val order: ChunkOrder = ChunkOrder.WINDOW,
) {
    init {
        if (lookAheadBlocks < 1 || chunkBlocks.any { it < 1 }) {
            throw UsageException(
                "Chunks of $chunkBlocks blocks with $lookAheadBlocks blocks of look-ahead are impossible. " +
                    "Each of these numbers must be at least 1.",
            )
        }
    }

    /** Blocks that chunk number [chunk], counted from 0, finishes; null: it finishes all blocks at the end. */
    internal fun finishedBlocks(chunk: Int): Int? = chunkBlocks.getOrNull(minOf(chunk, chunkBlocks.lastIndex))
}
