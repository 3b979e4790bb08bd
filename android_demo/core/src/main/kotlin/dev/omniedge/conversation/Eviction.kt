package dev.omniedge.conversation

/**
 * The oldest turns left the context; see [Session.evict].
 *
 * @property turns how many.
 * @property positions how many positions became free.
 */
class Eviction internal constructor(val turns: Int, val positions: Int)

/**
 * Which turn is the first that stays.
 *
 * @param starts where each turn begins.
 * @param end where the last one ends.
 * @param keep positions that the context may hold afterwards.
 * @param last positions that it may hold where only the last turn stays.
 * @return an index into [starts], 1 or more; its size: none stays.
 */
internal fun firstTurnKept(starts: List<Int>, end: Int, keep: Int, last: Int): Int =
    (1 until starts.size).firstOrNull { turn ->
        starts.first() + end - starts[turn] <= if (turn == starts.lastIndex) last else keep
    } ?: starts.size
