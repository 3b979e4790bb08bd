package dev.omniedge.conversation

import dev.omniedge.Event
import dev.omniedge.FinishReason
import dev.omniedge.Metrics
import dev.omniedge.TextDelta
import dev.omniedge.TurnDone
import dev.omniedge.decoders.TextStream
import dev.omniedge.decoders.TokenSource

/**
 * One reply: the loop that draws a token, appends it, prefills it and speaks it. Whenever it is abandoned, the context
 * holds what was said so far.
 *
 * @property context the conversation that it continues; its logits are those of the first token.
 * @property tokenSource chooses the tokens.
 * @property limit tokens at most.
 * @property eos tokens that close the turn.
 * @property stream turns tokens into text.
 * @property speech speaks the tokens; null for a reply in text only.
 * @property began end of the user's input, in ns of [System.nanoTime].
 * @property stop texts that end it.
 * @property unspoken texts that end its speech.
 */
internal class Reply(
    private val context: Context,
    private val tokenSource: TokenSource,
    private val limit: Int,
    private val eos: List<Int>,
    private val stream: TextStream,
    private val speech: Speech?,
    private val began: Long,
    private val stop: StopStrings,
    private val unspoken: StopStrings,
) {
    private val prefillSeconds = seconds()
    private val promptTokens = context.prefilled
    private val tokens = ArrayList<Int>()

    // States of tokens that may begin a text that is not spoken.
    private val waiting = ArrayList<FloatArray>()
    private var decodeSeconds = 0.0
    private var firstText: Double? = null
    private var firstAudio: Double? = null

    /** Text and speech as they come, then [TurnDone]. */
    fun events(cancelled: () -> Boolean): Sequence<Event> = sequence {
        var finish = FinishReason.LENGTH
        while (tokens.size < limit) {
            if (cancelled()) {
                finish = FinishReason.CANCELLED
                break
            }
            val token = draw()
            if (token in eos) {
                finish = FinishReason.STOP
                break
            }
            // A token that finds no room is shown, but not part of the conversation.
            val full = context.prefilled >= context.capacity
            if (!full) context.append(token)
            val text = stream.push(token)
            yield(TextDelta(stop.push(text), listOf(token)))
            if (stop.found) {
                finish = FinishReason.STOP
                break
            }
            if (tokens.size == limit) break
            // Once more: whoever took the text may have cancelled, or continued the conversation without this reply.
            if (cancelled()) {
                finish = FinishReason.CANCELLED
                break
            }
            if (full) {
                finish = FinishReason.CONTEXT_FULL
                break
            }
            val state = decode()
            if (speech != null) speak(speech, text, state)
        }
        stop.close(stream.close()).takeIf { it.isNotEmpty() }?.let { yield(TextDelta(it)) }
        if (speech != null && finish != FinishReason.CANCELLED) {
            speakWaiting(speech)
            for (chunk in speech.finish(cancelled)) playable(chunk)
            if (cancelled()) finish = FinishReason.CANCELLED
        }
        yield(TurnDone(stop.text, tokens, speech?.codecTokens.orEmpty(), promptTokens, finish, metrics()))
    }

    /** Speaks a token with its new text, unless the text is one that is written only. */
    private suspend fun SequenceScope<Event>.speak(speech: Speech, text: String, state: FloatArray) {
        unspoken.push(text)
        if (unspoken.found) return waiting.clear()
        waiting += state
        if (!unspoken.holds) speakWaiting(speech)
    }

    private suspend fun SequenceScope<Event>.speakWaiting(speech: Speech) {
        for (state in waiting) speech.feed(state)?.let { playable(it) }
        waiting.clear()
    }

    private suspend fun SequenceScope<Event>.playable(chunk: Event) {
        if (firstAudio == null) firstAudio = seconds()
        yield(chunk)
    }

    private fun draw(): Int {
        val logits = checkNotNull(context.logits) { "the turn was not prefilled" }
        if (firstText == null) firstText = seconds()
        return tokenSource.draw(logits).also(tokens::add)
    }

    /** Prefills the token that was appended; returns the state `[hidden]` that the Talker speaks it from. */
    private fun decode(): FloatArray {
        val start = seconds()
        val states = checkNotNull(context.prefill(speaking = true)) { "no token was appended" }
        decodeSeconds += seconds() - start
        return states.states.row(states.size - 1)
    }

    private fun metrics() = Metrics(
        ttft = firstText ?: seconds(),
        ttfa = firstAudio,
        prefill = prefillSeconds,
        decode = decodeSeconds,
        talker = speech?.talkerSeconds ?: 0.0,
        dit = speech?.ditSeconds ?: 0.0,
        bigvgan = speech?.bigvganSeconds ?: 0.0,
        total = seconds(),
        audio = speech?.audioSeconds ?: 0.0,
    )

    /** Seconds since the end of the user's input. */
    private fun seconds(): Double = (System.nanoTime() - began) / 1e9
}
