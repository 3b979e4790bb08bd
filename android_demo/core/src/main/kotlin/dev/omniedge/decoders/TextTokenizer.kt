package dev.omniedge.decoders

import dev.omniedge.BundleException
import dev.omniedge.bundle.Bundle
import dev.omniedge.bundle.Json
import dev.omniedge.bundle.JsonException
import java.text.Normalizer
import java.util.regex.Pattern
import java.util.regex.PatternSyntaxException

/**
 * The bundle's tokenizer, read from `tokenizer.json`; immutable.
 *
 * A user's text is always text: `<|im_end|>` in a prompt becomes several tokens, never the mark of a turn.
 */
class TextTokenizer private constructor(root: Map<*, *>, turnStart: String, turnEnd: String) {
    private val ids = HashMap<String, Int>()
    private val bytes: Array<ByteArray?>
    private val special: Set<Int>
    private val bpe: Bpe

    /** Splits a text into pieces that are encoded one by one. */
    private val pieces: Pattern

    /** Finds added tokens that are not special: they count in any text. */
    private val added: Pattern?

    /** The mark at the start of a turn. */
    val turnStart: Int

    /** The mark at the end of a turn. */
    val turnEnd: Int

    init {
        val model = root["model"] as Map<*, *>
        for ((token, id) in model["vocab"] as Map<*, *>) ids[token as String] = (id as Long).toInt()
        bpe = Bpe(ids, (model["merges"] as List<*>).map(::merge))
        val extra = (root["added_tokens"] as List<*>).map { AddedToken(it as Map<*, *>) }
        for (token in extra) ids[token.content] = token.id
        special = extra.filter { it.special }.mapTo(HashSet()) { it.id }
        bytes = arrayOfNulls(ids.values.max() + 1)
        for ((token, id) in ids) bytes[id] = Bpe.bytes(token)
        added = extra.filterNot { it.special }.map { it.content }.sortedByDescending { it.length }
            .joinToString("|", transform = Pattern::quote).takeIf { it.isNotEmpty() }?.let(Pattern::compile)
        pieces = splitter(root)
        this.turnStart = mark(turnStart)
        this.turnEnd = mark(turnEnd)
    }

    /** The tokens of [text]. */
    fun encode(text: String): List<Int> {
        val tokens = ArrayList<Int>()
        var start = 0
        added?.matcher(text)?.let { found ->
            while (found.find()) {
                encode(text.substring(start, found.start()), tokens)
                tokens += ids.getValue(found.group())
                start = found.end()
            }
        }
        encode(text.substring(start), tokens)
        return tokens
    }

    private fun encode(text: String, tokens: MutableList<Int>) {
        val found = pieces.matcher(Normalizer.normalize(text, Normalizer.Form.NFC))
        while (found.find()) bpe.encode(found.group(), tokens)
    }

    /** The bytes (UTF-8) of a token; none of a special one. */
    internal fun bytes(token: Int): ByteArray = bytes.getOrNull(token).takeUnless { token in special } ?: NOTHING

    /** A decoder for tokens that come one at a time. */
    fun stream(): TextStream = TextStream(this)

    private fun mark(token: String): Int =
        ids[token] ?: throw BundleException("The tokenizer has no token '$token'. Export the bundle again.")

    private fun merge(pair: Any?): Pair<String, String> {
        val (left, right) = if (pair is String) pair.split(' ') else (pair as List<*>).map { it as String }
        return left to right
    }

    private fun splitter(root: Map<*, *>): Pattern {
        val normalizer = (root["normalizer"] as Map<*, *>)["type"]
        val steps = ((root["pre_tokenizer"] as Map<*, *>)["pretokenizers"] as List<*>).map { it as Map<*, *> }
        require(normalizer == "NFC" && steps.map { it["type"] } == listOf("Split", "ByteLevel")) {
            "it is not the byte-level tokenizer of Qwen's models"
        }
        val pattern = (steps.first()["pattern"] as Map<*, *>)["Regex"] as String
        // UNICODE_CASE has no effect on Android, whose patterns are always so.
        return Pattern.compile(spellOutBlanks(pattern), Pattern.UNICODE_CASE)
    }

    /** `\s` is ASCII on the JVM and lacks U+000B and U+0085 on Android; the tokenizer means Unicode's White_Space. */
    private fun spellOutBlanks(pattern: String): String = buildString {
        var inClass = false
        var at = 0
        while (at < pattern.length) {
            val char = pattern[at]
            if (char != '\\') {
                if (char == '[') inClass = true
                if (char == ']') inClass = false
                append(char)
                at++
                continue
            }
            val escape = pattern.substring(at, at + 2)
            at += 2
            append(
                when (escape) {
                    "\\s" -> if (inClass) WHITE_SPACE else "[$WHITE_SPACE]"
                    "\\S" -> "[^$WHITE_SPACE]"
                    else -> escape
                },
            )
        }
    }

    private class AddedToken(fields: Map<*, *>) {
        val id = (fields["id"] as Long).toInt()
        val content = fields["content"] as String
        val special = fields["special"] == true

        init {
            val plain = listOf("single_word", "lstrip", "rstrip", "normalized").none { fields[it] == true }
            require(special || plain) { "the added token '$content' asks for more than its text" }
        }
    }

    companion object {
        private const val WHITE_SPACE = "\\t-\\r \\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
        private val NOTHING = ByteArray(0)

        /**
         * The tokenizer that the manifest names.
         *
         * @throws BundleException the file is not a tokenizer of the kind that Qwen's models have.
         */
        fun fromBundle(bundle: Bundle): TextTokenizer {
            val section = bundle.manifest.text
            fun refused(error: Exception) = BundleException(
                "${section.tokenizer} is not a tokenizer of this kind (${error.message}). Export the bundle again.",
                error,
            )
            try {
                return TextTokenizer(Json.parse(bundle.tokenizerText()) as Map<*, *>, section.turnStart, section.turnEnd)
            } catch (error: JsonException) {
                throw refused(error)
            } catch (error: ClassCastException) {
                throw refused(error)
            } catch (error: NullPointerException) {
                throw refused(error)
            } catch (error: NoSuchElementException) {
                throw refused(error)
            } catch (error: PatternSyntaxException) {
                throw refused(error)
            } catch (error: IllegalArgumentException) {
                throw refused(error)
            }
        }
    }
}

/** Decodes tokens one at a time. A character that is split over several tokens comes with the last one. */
class TextStream internal constructor(private val tokenizer: TextTokenizer) {
    private var pending = ByteArray(0)

    /** The new text that [token] completes; often empty. */
    fun push(token: Int): String {
        pending += tokenizer.bytes(token)
        return if (String(pending).endsWith(UNFINISHED)) "" else close()
    }

    /** The rest of the text; an unfinished character becomes U+FFFD. */
    fun close(): String = String(pending).also { pending = ByteArray(0) }

    private companion object {
        const val UNFINISHED = '\ufffd'
    }
}
