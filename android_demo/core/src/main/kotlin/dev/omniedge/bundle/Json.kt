package dev.omniedge.bundle

import java.util.Locale

/** The text is not JSON (RFC 8259). */
internal class JsonException(message: String) : RuntimeException(message)

/**
 * Reads and writes JSON: objects as [Map], arrays as [List], numbers as [Long] or [Double], and String, Boolean and null.
 *
 * The JVM has no JSON of its own, and Android's `org.json` is not on the JVM.
 */
internal class Json private constructor(private val text: String) {
    private var at = 0
    private var depth = 0

    private fun document(): Any? {
        val value = value()
        blank()
        if (at < text.length) fail("the text continues behind the value")
        return value
    }

    private fun value(): Any? {
        blank()
        return when (peek()) {
            '{' -> nested { record() }
            '[' -> nested { list() }
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun <T> nested(read: () -> T): T {
        if (++depth > DEEPEST) fail("more than $DEEPEST levels")
        at++
        return read().also { depth-- }
    }

    private fun record(): Map<String, Any?> {
        val fields = LinkedHashMap<String, Any?>()
        items('}') {
            val name = string()
            blank()
            expect(':')
            fields[name] = value()
        }
        return fields
    }

    private fun list(): List<Any?> = ArrayList<Any?>().also { list -> items(']') { list += value() } }

    private inline fun items(close: Char, read: () -> Unit) {
        blank()
        if (skip(close)) return
        do {
            blank()
            read()
            blank()
        } while (skip(','))
        expect(close)
    }

    private fun string(): String {
        expect('"')
        val end = text.indexOf('"', at)
        val escape = text.indexOf('\\', at)
        if (end >= 0 && (escape < 0 || escape > end)) return text.substring(at, end).also { at = end + 1 }
        return buildString {
            while (true) {
                when (val char = next()) {
                    '"' -> return@buildString
                    '\\' -> append(escaped())
                    else -> append(char)
                }
            }
        }
    }

    private fun escaped(): Char = when (val char = next()) {
        'n' -> '\n'
        't' -> '\t'
        'r' -> '\r'
        'b' -> '\b'
        'f' -> '\u000c'
        '"', '\\', '/' -> char
        'u' -> {
            val code = text.substring(at, minOf(at + 4, text.length)).toIntOrNull(16) ?: fail("not a character code")
            at += 4
            code.toChar()
        }
        else -> fail("no such escape: $char")
    }

    private fun number(): Number {
        val start = at
        while (at < text.length && text[at] in "+-.0123456789eE") at++
        val digits = text.substring(start, at)
        return digits.toLongOrNull() ?: digits.toDoubleOrNull() ?: fail("no value")
    }

    private fun <T> word(word: String, value: T): T {
        if (!text.startsWith(word, at)) fail("no value")
        at += word.length
        return value
    }

    private fun blank() {
        while (at < text.length && text[at] in " \t\r\n") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("the text ends")

    private fun next(): Char = peek().also { at++ }

    private fun skip(char: Char): Boolean = (peek() == char).also { if (it) at++ }

    private fun expect(char: Char) {
        if (!skip(char)) fail("'$char' is missing")
    }

    private fun fail(reason: String): Nothing = throw JsonException("$reason, at character $at")

    companion object {
        private const val DEEPEST = 64

        /** @throws JsonException the text is not JSON. */
        fun parse(text: String): Any? = Json(text).document()

        /** The text of a value of the kinds that [parse] returns, or of an [Int]. */
        fun write(value: Any?): String = when (value) {
            is Map<*, *> -> value.entries.joinToString(", ", "{", "}") { (key, item) -> "${write(key)}: ${write(item)}" }
            is List<*> -> value.joinToString(", ", "[", "]", transform = ::write)
            is String -> value.map(::escape).joinToString("", "\"", "\"")
            else -> value.toString()
        }

        private fun escape(char: Char): String =
            if (char in ' '..'~' && char != '"' && char != '\\') "$char" else "\\u%04x".format(Locale.ROOT, char.code)
    }
}
