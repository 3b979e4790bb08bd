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

/**
 * Finds the user's turns in the microphone's sound by its loudness; pieces of a tenth of a second.
 *
 * It takes any loud sound for speech. The Python runtime has a detector of speech (`omni-edge chat --listen`).
 *
 * @param startPieces loud pieces in a row that begin a turn.
 * @param stopPieces quiet pieces in a row that end it.
 */
class TurnDetector(private val startPieces: Int = 2, private val stopPieces: Int = 8) {
    /** What a piece means. */
    enum class Sound { SILENCE, TURN_START, TURN, TURN_END }

    private var room = FAINTEST_DB
    private var loud = 0
    private var quiet = 0
    private var turn = false

    /** Takes the next piece, float32 in -1 to 1. */
    fun step(piece: FloatArray): Sound {
        val level = level(piece)
        val isLoud = level > max(room + MARGIN_DB, FAINTEST_DB)
        room = min(level, room + RISE_DB)
        loud = if (isLoud) loud + 1 else 0
        quiet = if (isLoud) 0 else quiet + 1
        if (!turn) {
            turn = loud >= startPieces
            return if (turn) Sound.TURN_START else Sound.SILENCE
        }
        turn = quiet < stopPieces
        return if (turn) Sound.TURN else Sound.TURN_END
    }

    private fun level(piece: FloatArray): Float {
        var power = 0f
        for (sample in piece) power += sample * sample
        return max(SILENCE_DB, 10 * log10(power / max(1, piece.size) + 1e-12f))
    }
}
