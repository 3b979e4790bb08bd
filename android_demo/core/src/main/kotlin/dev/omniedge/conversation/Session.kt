package dev.omniedge.conversation

import dev.omniedge.Event
import dev.omniedge.Media
import dev.omniedge.Model
import dev.omniedge.UsageException
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import java.io.File

/**
 * A conversation: takes what the user says and shows, and answers; made by [dev.omniedge.OmniEdge.session].
 *
 * Whatever is pushed is encoded and prefilled as soon as it is complete; what an earlier turn prefilled is never
 * prefilled again. One coroutine or thread at a time, except for [cancel]. Calls compute, for milliseconds to seconds:
 * keep them off the main thread. An error leaves the conversation as it was before the call; of a live sound, the blocks
 * before it stay.
 */
class Session internal constructor(private val model: Model, settings: SessionSettings) : AutoCloseable {
    private val settings = settings.complete(model.manifest)
    private val context = Context(model, this.settings)
    private val user = UserTurn(model, this.settings, context)
    private var reply: Reply? = null

    @Volatile
    private var cancelled = false

    /**
     * The speaker of the next reply; one of [dev.omniedge.OmniEdge.voices], null in a text-only bundle.
     *
     * @throws UsageException when set to a name that the bundle does not have.
     */
    var voice: String? = this.settings.voice
        set(name) {
            field = model.manifest.checkVoice(name ?: throw UsageException("A voice needs a name."))
        }

    /** Whether the user's turn holds anything that [reply] would answer. */
    val turnOpen: Boolean get() = user.turns.open

    /** Whether replies are spoken. */
    val speech: Boolean get() = context.talker != null

    /** Positions of the context in use, those that wait to be prefilled included. */
    val offset: Int get() = context.offset

    /** Positions that the conversation may use. */
    val capacity: Int get() = context.capacity

    /** Starts the conversation anew, with the same settings; the random streams start again too. */
    fun reset() {
        context.reset()
        reply = null
        user.live = null
        user.turns = Turns()
    }

    /**
     * Stops the reply in progress at its next step; safe from any thread.
     *
     * The conversation keeps the text written so far; the rest of the speech is dropped.
     */
    fun cancel() {
        cancelled = true
    }

    /**
     * Adds text to the user's turn.
     *
     * @throws dev.omniedge.ContextFullException it does not fit.
     */
    fun push(text: String) {
        reply = null
        user.push(text)
    }

    /**
     * Adds sound or a picture to the user's turn; it is encoded and prefilled before the call returns.
     *
     * The last piece of a live sound has `end = true`; anything else that is pushed, and [reply], end it too.
     *
     * @throws dev.omniedge.MediaException it cannot be used.
     * @throws dev.omniedge.ContextFullException it does not fit.
     */
    fun push(media: Media) {
        reply = null
        user.push(media)
    }

    /**
     * Ends the user's turn and answers: a cold flow of [dev.omniedge.TextDelta], [dev.omniedge.AudioChunk] and finally
     * [dev.omniedge.TurnDone]. It can be collected once; a collector that leaves ends the reply where it stands.
     *
     * @param maxNewTokens text tokens at most; null: the bundle's default.
     * @param maxCodecTokens codec tokens at most (50 for each second of speech); null: the bundle's default.
     * @param settings what is different in this reply.
     * @throws UsageException in the collector: nothing was pushed.
     * @throws dev.omniedge.ContextFullException in the collector: the turn's closing marks do not fit.
     */
    fun reply(
        maxNewTokens: Int? = null,
        maxCodecTokens: Int? = null,
        settings: ReplySettings = ReplySettings(),
    ): Flow<Event> = flow {
        val reply = begin(maxNewTokens, maxCodecTokens, settings)
        // A flow that is still collected when the conversation continues must not write into it any more.
        for (event in reply.events { cancelled || this@Session.reply !== reply }) emit(event)
    }

    /**
     * Adds a reply that was given elsewhere, as in a conversation that the app kept as text; nothing is spoken.
     *
     * @param text all of it.
     * @throws dev.omniedge.ContextFullException it does not fit.
     */
    fun pushReply(text: String) {
        reply = null
        user.endSound()
        user.reserve(model.tokenizer.encode(text).size)
        var start = 0
        val turns = user.behindTurns {
            if (turnOpen) context.pending.endTurn()
            context.pending.assistant()
            context.prefill()
            start = context.prefilled
            context.pending.write(text)
            context.prefill()
        }
        user.turns = turns.copy(replyStarts = turns.replyStarts + start, open = false)
    }

    /**
     * Cuts a reply short and forgets everything behind it; the next turn follows as if the reply had ended there.
     *
     * @param offset positions that stay: within a reply or at its ends. `TurnDone.promptTokens + n` keeps the first n
     *   tokens of that reply.
     * @throws UsageException the offset is not within a reply.
     */
    fun trim(offset: Int) {
        val turns = user.turns
        val spans = turns.replies(this.offset)
        val number = spans.indexOfFirst { offset in it }
        if (number < 0) {
            val places = spans.joinToString { "${it.first} to ${it.last}" }.ifEmpty { "(none yet)" }
            throw UsageException("A conversation can be cut within its replies, not at $offset. They lie at $places.")
        }
        reply = null
        if (offset > context.prefilled) context.prefill()
        context.trim(offset)
        user.live = null
        user.turns = turns.copy(
            replyStarts = turns.replyStarts.take(number + 1),
            replyStops = turns.replyStops.take(number),
            open = false,
        )
    }

    /**
     * The present place, in the middle of a live sound as well; [restore] goes back to it.
     *
     * It copies what waits and what the live sound holds (2 s at most), not the caches.
     */
    fun snapshot() = Snapshot(context.snapshot(), user.turns, user.live?.copy())

    /**
     * Goes back to a place of this conversation: what was pushed and replied since then is forgotten. The conversation
     * then continues, token for token, as one in which it never happened.
     *
     * @param snapshot taken since the conversation began, was reset, lost turns or was last cut in front of it.
     * @throws UsageException the conversation was cut in front of it, or turns left since.
     */
    fun restore(snapshot: Snapshot) {
        if (context.prefilled < snapshot.context.prefilled || user.turns.evicted != snapshot.turns.evicted) {
            throw UsageException("This place was cut from the conversation. Restore one that the conversation still has.")
        }
        reply = null
        context.restore(snapshot.context)
        user.turns = snapshot.turns
        user.live = snapshot.live?.copy()
    }

    /** From now on keeps the embeds of sound and pictures, so that turns which hold some can stay in [evict]. */
    fun keepMedia() {
        context.history.keepsMedia = true
    }

    /**
     * The oldest turns leave, whole; the system prompt and a user's turn that is open stay.
     *
     * The conversation continues as one that never had them. The turns that stay are prefilled again with the next push
     * of media, or with the next reply.
     *
     * @param keep positions that may be in use afterwards.
     * @param last positions that may be in use where the last turn alone stays.
     * @return what left; null: there is no turn that may leave.
     */
    fun evict(keep: Int, last: Int = keep): Eviction? {
        reply = null
        context.prefill()
        val turns = user.turns
        val end = context.prefilled
        val starts = turnStarts()
        if (starts.isEmpty()) return null
        val keptFrom = context.history.keptFrom
        var first = firstTurnKept(starts, end, keep, last)
        while (first < starts.size && starts[first] < keptFrom) first++
        if (turns.open) {
            first = minOf(first, starts.lastIndex)
            if (first == 0 || starts[first] < keptFrom) return null
        }
        val (from, to) = starts.first() to (starts.getOrNull(first) ?: end)
        context.cutOut(from, to)
        val moved = to - from
        user.turns = turns.copy(
            replyStarts = turns.replyStarts.drop(first).map { it - moved },
            replyStops = turns.replyStops.drop(first).map { it - moved },
            evicted = turns.evicted + first,
        )
        return Eviction(first, moved)
    }

    /**
     * Puts the conversation away in a file, whole or not at all; [dev.omniedge.OmniEdge.resume] and the Python runtime
     * take it up again.
     *
     * A user's turn may be open; of a reply in progress the file holds the tokens so far.
     *
     * @throws UsageException a live sound is open, or the file cannot be written.
     * @throws dev.omniedge.ResourceException the disk is full.
     */
    fun save(path: File) {
        if (user.live != null) {
            throw UsageException("A live sound is open. Complete it (end = true) before the conversation is saved.")
        }
        if (context.pending.holdsMedia) context.prefill()
        val pending = context.pending
        val conversation = SavedConversation(
            bundle = model.bundleSha256(),
            settings = settings.reusable(voice),
            turns = user.turns,
            text = pending.text,
            positions = pending.positions,
        )
        writeConversation(path, conversation, context.arrays())
    }

    /** Ends the conversation and gives its memory back. */
    override fun close() {
        reply = null
        context.close()
    }

    /** Where each turn begins; nothing waits. */
    private fun turnStarts(): List<Int> {
        val marks = context.tokens.withIndex().filter { it.value == model.tokenizer.turnStart }.map { it.index }
            .drop(if (settings.system.isEmpty()) 0 else 1)
        if (marks.isEmpty()) return emptyList()
        return (listOf(0) + user.turns.replyStops).map { stop -> marks.first { it >= stop } }
    }

    private fun begin(maxNewTokens: Int?, maxCodecTokens: Int?, chosen: ReplySettings): Reply {
        val began = System.nanoTime()
        cancelled = false
        reply = null
        user.endSound()
        if (!turnOpen) throw UsageException("There is nothing to answer: push text, sound or a picture first.")
        context.unchangedOnError {
            context.pending.endTurn()
            context.pending.assistant()
            context.prefill()
        }
        val turns = user.turns.run { copy(replyStarts = replyStarts + context.prefilled, open = false) }
        user.turns = turns
        val start = ReplyStart(model, settings, chosen, context, voice, turns.replyNumber)
        return start.reply(began, maxNewTokens, maxCodecTokens).also { reply = it }
    }

    internal companion object {
        /** See [dev.omniedge.OmniEdge.resume]. */
        fun resume(model: Model, path: File): Session {
            val file = SavedFile(path, model.bundleSha256())
            val session = Session(model, file.conversation.settings)
            try {
                session.context.load(file)
                session.user.turns = file.conversation.turns
                return session
            } catch (error: Throwable) {
                session.close()
                throw error
            }
        }
    }
}
