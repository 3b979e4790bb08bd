package dev.omniedge.conversation

/**
 * Passes a reply's text on, up to the first of some texts. What may be the beginning of one is held back until it is
 * certain.
 *
 * @param stops the texts; none may be empty.
 */
internal class StopStrings(private val stops: List<String>) {
    private var held = ""
    private val passed = StringBuilder()

    /** Everything that was passed on. */
    val text: String get() = passed.toString()

    /** Whether one of the texts was met; nothing is passed on from then on. */
    var found = false
        private set

    /** Whether the end of the text so far may begin a stop. */
    val holds: Boolean get() = held.isNotEmpty()

    /** Takes the next piece; returns what is certain to stand before a stop. */
    fun push(piece: String): String {
        if (found) return ""
        val text = held + piece
        val first = stops.map { text.indexOf(it) }.filter { it >= 0 }.minOrNull()
        found = first != null
        return pass(text, first ?: (text.length - (stops.maxOfOrNull { overlap(text, it) } ?: 0)))
    }

    /** Takes the last piece; returns everything that was held back. */
    fun close(rest: String): String = push(rest) + pass(held, held.length)

    /** Passes the first [count] characters of [text] on and, where no stop was met, holds the others back. */
    private fun pass(text: String, count: Int): String {
        held = if (found) "" else text.substring(count)
        return text.substring(0, count).also(passed::append)
    }

    /** Characters at the end of [text] that begin [stop]. */
    private fun overlap(text: String, stop: String): Int =
        (minOf(text.length, stop.length - 1) downTo 1).firstOrNull { stop.startsWith(text.takeLast(it)) } ?: 0
}
