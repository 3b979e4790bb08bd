package dev.omniedge.conversation

import dev.omniedge.Model
import dev.omniedge.decoders.INSIDE
import dev.omniedge.decoders.Positions
import dev.omniedge.decoders.TalkerState
import dev.omniedge.decoders.ThinkerStates

/**
 * The context of a conversation: what the Thinker's and the Talker's caches hold, and what waits to be prefilled. It
 * alone owns both caches.
 *
 * The Talker takes the same positions as the Thinker, but not while it speaks: the states of a reply's tokens wait until
 * the next turn is prefilled.
 *
 * @param settings say how large the caches are and whether there is a Talker's.
 */
internal class Context(private val model: Model, settings: CompleteSettings) : AutoCloseable {
    private val cache = model.thinker.cache(settings.context, model.memory)

    /** The Talker's cache; null: the conversation is text only. */
    val talker: TalkerState? = try {
        settings.talkerSampling?.let { sampling ->
            model.talker?.let {
                val capacity = minOf(settings.context + sampling.maxNewTokens, it.decoder.section.maxPositions)
                it.state(capacity, model.memory)
            }
        }
    } catch (error: Throwable) {
        cache.close()
        throw error
    }

    /** Text, marks and tokens that are not in the caches yet. */
    val pending = Prompt(model.thinker::embed, model.tokenizer, model.manifest)

    /** float32 `[vocabulary]` after the last position; null: nothing was prefilled since the context was cut. */
    var logits: FloatArray? = null
        private set

    // Of every position in the Thinker's cache: its token, the id that would follow it, the highest id up to it.
    private val slots = ArrayList<Slot>()

    // States of the positions that the Talker has still to take.
    private var states: List<ThinkerStates> = emptyList()

    private class Slot(val token: Int, val nextId: Int, val highestId: Int)

    /** Positions in the Thinker's cache. */
    val prefilled: Int get() = cache.offset

    /** Positions in use: those in the cache and those that wait. */
    val offset: Int get() = cache.offset + pending.size

    /** Positions that it can hold. */
    val capacity: Int get() = cache.capacity

    /** The tokens in the cache, placeholders in the place of media. */
    val tokens: List<Int> get() = slots.map { it.token }

    /** A copy of the ids that come next. */
    val positions: Positions get() = pending.positions.copy()

    /** Forgets everything; the memory stays. */
    fun reset() {
        cut(0)
        pending.reset()
        logits = null
    }

    /**
     * Checks that [count] more positions fit behind those that wait.
     *
     * @throws dev.omniedge.ContextFullException they do not.
     */
    fun reserve(count: Int) = model.thinker.decoder.reserve(pending.size + count, cache)

    /** Adds a token that was drawn from [logits]; it waits for the next prefill. */
    fun append(token: Int) = pending.decoded(token)

    /**
     * Puts everything that waits into the caches.
     *
     * @param speaking the Talker speaks the reply that is being decoded: it takes the new positions later.
     * @return the new positions as the Talker takes them; null: nothing waited.
     * @throws dev.omniedge.ContextFullException they do not fit.
     */
    fun prefill(speaking: Boolean = false): ThinkerStates? {
        val blocks = pending.take()
        if (blocks.isEmpty()) return null
        val (prefilled, logits) = model.thinker.step(blocks, cache)
        this.logits = logits
        var highest = slots.lastOrNull()?.highestId ?: INSIDE
        for (block in blocks) {
            for (place in block.tokens.indices) {
                highest = maxOf(highest, block.positions.largest(place))
                slots += Slot(block.tokens[place], block.nextIds[place], highest)
            }
        }
        if (talker != null) {
            states = states + prefilled
            if (!speaking) {
                model.talker?.prefill(ThinkerStates.concatenate(states), talker)
                states = emptyList()
            }
        }
        return prefilled
    }

    /**
     * Forgets every position from [to] on, and everything that waits. The conversation then continues as one that never
     * had more; [logits] come with the next prefill.
     *
     * @param to positions that stay: 0, or any number up to [prefilled] that is not inside a picture or a video.
     */
    fun trim(to: Int) {
        require(to in 0..prefilled && (to == 0 || slots[to - 1].nextId != INSIDE)) {
            "a context of $prefilled positions cannot be cut at $to"
        }
        val positions = if (to == 0) Positions() else slots[to - 1].let { Positions(it.nextId, it.highestId) }
        cut(to)
        pending.reset(positions)
        logits = null
    }

    /** Runs [change]; an error within leaves the context as it was at the beginning. */
    inline fun <T> unchangedOnError(change: () -> T): T {
        val prefilledBefore = prefilled
        val pendingBefore = pending.snapshot()
        try {
            return change()
        } catch (error: Throwable) {
            rewind(prefilledBefore, pendingBefore)
            throw error
        }
    }

    /** Goes back to an earlier place, in front of which nothing was cut since. */
    fun rewind(to: Int, waiting: Prompt.Snapshot) {
        if (to != prefilled) logits = null
        cut(to)
        pending.restore(waiting)
    }

    private fun cut(to: Int) {
        cache.trim(to)
        while (slots.size > to) slots.removeAt(slots.lastIndex)
        if (talker == null) return
        talker.trim(to)
        var room = to - talker.prefilled
        states = states.mapNotNull { part ->
            val kept = part.first(room.coerceIn(0, part.size))
            room -= kept.size
            kept.takeIf { it.size > 0 }
        }
    }

    override fun close() {
        cache.close()
        talker?.close()
    }
}
