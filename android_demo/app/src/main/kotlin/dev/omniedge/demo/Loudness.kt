package dev.omniedge.demo

import kotlin.math.log10
import kotlin.math.max
import kotlin.math.min

// Levels in dB of full scale: speech is louder than the room by a margin, and never fainter than the floor.
private const val MARGIN_DB = 12f
private const val FAINTEST_DB = -50f
private const val SILENCE_DB = -90f

// The room's level follows a quieter piece at once and a louder one slowly (dB for each piece).
private const val RISE_DB = 0.3f

/** Takes any loud sound for speech, where the app has no detector of voices. */
class Loudness {
    private var room = FAINTEST_DB

    /** Whether the next piece, float32 in -1 to 1, is louder than the room. */
    fun step(piece: FloatArray): Boolean {
        val level = level(piece)
        val isLoud = level > max(room + MARGIN_DB, FAINTEST_DB)
        room = min(level, room + RISE_DB)
        return isLoud
    }

    private fun level(piece: FloatArray): Float {
        var power = 0f
        for (sample in piece) power += sample * sample
        return max(SILENCE_DB, 10 * log10(power / max(1, piece.size) + 1e-12f))
    }
}
