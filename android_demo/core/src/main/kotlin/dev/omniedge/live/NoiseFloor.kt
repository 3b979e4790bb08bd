package dev.omniedge.live

import kotlin.math.log10

// Frames of 32 ms: those that a level is averaged over (0.16 s), those that the room is measured in (15 s), and those
// after which it is known (3 s): a user who speaks from the first sample on has made a pause by then.
private const val AVERAGED = 5
private const val MEASURED = 469
private const val FIRST_FRAMES = 94
private const val PERCENTILE = 5

// Decibels above the room from which a voice is the user's, and down to which it stays so, before and after that.
private const val FIRST_ENTER = 7.0
private const val ENTER = 9.0
private const val FIRST_LEAVE = 0.0
private const val LEAVE = 3.5

// A muted microphone says nothing about the room.
private const val MUTED_POWER = 1e-9

/**
 * The level of the room: what talks all the time around the user is noise, and the user is louder.
 *
 * A detector of voices finds speech in a murmur of many voices too. The murmur hardly changes its level, while a
 * speaker's falls in every pause, so a low percentile of the recent levels is that of the room.
 */
internal class NoiseFloor {
    // Mean squares of the last frames, and decibels of their averages.
    private val powers = ArrayDeque<Double>()
    private val levels = ArrayDeque<Double>()
    private var louder = false

    /** Whether the next frame, float32 `[n]`, is louder than the room. */
    fun isLouder(frame: FloatArray): Boolean {
        val power = frame.sumOf { it.toDouble() * it } / frame.size
        powers.addLimited(power, AVERAGED)
        if (power < MUTED_POWER) {
            louder = false
            return false
        }
        val level = 10 * log10(powers.average())
        levels.addLimited(level, MEASURED)
        val first = levels.size <= FIRST_FRAMES
        val (enter, leave) = if (first) FIRST_ENTER to FIRST_LEAVE else ENTER to LEAVE
        val room = levels.sorted()[levels.size * PERCENTILE / 100]
        louder = level >= room + if (louder) leave else enter
        return louder
    }

    private fun ArrayDeque<Double>.addLimited(value: Double, limit: Int) {
        addLast(value)
        if (size > limit) removeFirst()
    }
}
