package dev.omniedge.conversation

/**
 * Where the turns of a conversation lie in its context.
 *
 * @property replyStarts offsets at which replies begin.
 * @property replyStops offsets at which those replies end that another turn follows.
 * @property open whether the user's turn holds anything that a reply would answer.
 * @property evicted replies that left the context.
 */
internal data class Turns(
    val replyStarts: List<Int> = emptyList(),
    val replyStops: List<Int> = emptyList(),
    val open: Boolean = false,
    val evicted: Int = 0,
) {
    /** The number of the reply that began last; names its random streams. */
    val replyNumber: Long get() = (evicted + replyStarts.size).toLong()

    /** The offsets of each reply; [end] is that of the last one, where no turn follows it. */
    fun replies(end: Int): List<IntRange> = replyStarts.zip(replyStops + end) { start, stop -> start..stop }
}
