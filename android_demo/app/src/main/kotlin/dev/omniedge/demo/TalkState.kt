package dev.omniedge.demo

/** What the app is doing. */
enum class Phase { LOADING, READY, LISTENING, ANSWERING, FAILED }

/**
 * Everything that the screen shows.
 *
 * @property progress share of the loading that is done, 0 to 1.
 * @property message what went wrong last; empty: nothing.
 */
data class TalkState(
    val phase: Phase = Phase.LOADING,
    val progress: Float = 0f,
    val transcript: String = "",
    val figures: String = "",
    val voices: List<String> = emptyList(),
    val voice: String? = null,
    val handsFree: Boolean = false,
    val message: String = "",
)
