package dev.omniedge.demo

/**
 * Finds the user's turns in the microphone's sound; pieces of a tenth of a second.
 *
 * @param speaks whether the next piece, float32 in -1 to 1, holds speech.
 * @param startPieces pieces of speech in a row that begin a turn.
 * @param stopPieces pieces without speech in a row that end it.
 */
class TurnDetector(
    private val speaks: (FloatArray) -> Boolean,
    private val startPieces: Int = 2,
    private val stopPieces: Int = 8,
) {
    /** What a piece means. */
    enum class Sound { SILENCE, TURN_START, TURN, TURN_END }

    private var speech = 0
    private var quiet = 0
    private var turn = false

    /** Takes the next piece. */
    fun step(piece: FloatArray): Sound {
        val isSpeech = speaks(piece)
        speech = if (isSpeech) speech + 1 else 0
        quiet = if (isSpeech) 0 else quiet + 1
        if (!turn) {
            turn = speech >= startPieces
            return if (turn) Sound.TURN_START else Sound.SILENCE
        }
        turn = quiet < stopPieces
        return if (turn) Sound.TURN else Sound.TURN_END
    }
}
