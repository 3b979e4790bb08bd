package dev.omniedge.conversation

import dev.omniedge.Model
import dev.omniedge.decoders.INSIDE
import dev.omniedge.decoders.PositionIds
import dev.omniedge.decoders.Positions
import dev.omniedge.decoders.TalkerState
import dev.omniedge.decoders.ThinkerStates
import dev.omniedge.numeric.Matrix

private val NO_IDS = PositionIds.uniform(IntArray(0))

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

    /** What prefilling parts of the context again needs. */
    val history = History(settings.context)

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
        history.add(cache.offset - prefilled.size, blocks)
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

    /**
     * Forgets the positions from [start] to [stop], where it can be cut; those behind them wait to be prefilled again,
     * their ids moved as if what was cut out had never been there. Nothing may wait, and [stop] must not be in front of
     * what [history] keeps.
     */
    fun cutOut(start: Int, stop: Int) {
        check(pending.size == 0 && history.keptFrom <= stop) { "the context cannot be prefilled again from $stop on" }
        val before = slots.getOrNull(start - 1)
        val moved = slots[stop - 1].nextId - (before?.nextId ?: 0)
        val kept = slots.drop(stop)
        val tokens = IntArray(kept.size) { kept[it].token }
        val nextIds = IntArray(kept.size) { if (kept[it].nextId == INSIDE) INSIDE else kept[it].nextId - moved }
        val blocks = history.blocks(stop, tokens, nextIds, moved, model.thinker::embed)
        val ids = blocks.flatMap { block -> List(block.size, block.positions::largest) }
        val positions = Positions(pending.positions.next - moved, (ids + (before?.highestId ?: INSIDE)).max())
        cut(start)
        history.keep()
        logits = null
        pending.refill(blocks, positions)
    }

    /** Runs [change]; an error within leaves the context as it was at the beginning. */
    inline fun <T> unchangedOnError(change: () -> T): T {
        val before = snapshot()
        try {
            return change()
        } catch (error: Throwable) {
            restore(before)
            throw error
        }
    }

    /** The present place, to which [restore] goes back. */
    fun snapshot() = ContextSnapshot(prefilled, pending.snapshot())

    /** Goes back to an earlier place, in front of which nothing was cut since. */
    fun restore(snapshot: ContextSnapshot) {
        if (snapshot.prefilled != prefilled) logits = null
        cut(snapshot.prefilled)
        pending.restore(snapshot.pending)
    }

    /** What a file has to hold beside the header; the caches' used parts are views. */
    fun arrays(): List<SavedArray> {
        val (tokens, ids) = pending.waiting()
        val hidden = model.manifest.thinker.hiddenSize
        val waiting = ThinkerStates.concatenate(states + ThinkerStates(Matrix(0, hidden), NO_IDS))
        return listOf(
            SavedArray.integers("tokens", slots.map { it.token }),
            SavedArray.integers("next_ids", slots.map { it.nextId }),
            SavedArray.integers("highest_ids", slots.map { it.highestId }),
            SavedArray.integers("pending.tokens", tokens.asList()),
            SavedArray.positions("pending.ids", ids),
            SavedArray.floats("states", waiting.states),
            SavedArray.positions("states.ids", waiting.positions),
        ) + SavedArray.cache("thinker", cache, prefilled) +
            talker?.let { SavedArray.cache("talker", it.cache, it.prefilled) }.orEmpty()
    }

    /**
     * Takes over a saved conversation; this context is a fresh one.
     *
     * @throws dev.omniedge.ConversationException the file does not fit this model, or holds values that no conversation
     *   has.
     */
    fun load(file: SavedFile) {
        val vocabulary = 0 until model.manifest.thinker.vocabSize
        val ids = 0 until Int.MAX_VALUE
        val count = file.count("tokens")
        val waiting = file.count("pending.tokens")
        val taken = if (talker == null) count else file.count("talker.cos")
        val delayed = count - taken
        if (count > capacity || delayed < 0) throw file.unusable("it has $count positions in a context of $capacity")
        val tokens = file.integers("tokens", vocabulary, count)
        val nextIds = file.integers("next_ids", INSIDE until Int.MAX_VALUE, count)
        val highestIds = file.integers("highest_ids", ids, count)
        for (place in 0 until count) slots += Slot(tokens[place], nextIds[place], highestIds[place])
        history.lose(count)
        SavedArray.cache("thinker", cache, count).forEach(file::read)
        cache.offset = count
        if (talker != null) {
            SavedArray.cache("talker", talker.cache, taken).forEach(file::read)
            talker.cache.offset = taken
            talker.prefilled = taken
        }
        val states = file.matrix("states", delayed, model.manifest.thinker.hiddenSize)
        if (delayed > 0) this.states = listOf(ThinkerStates(states, file.positions("states.ids", ids, delayed)))
        val pendingTokens = file.integers("pending.tokens", vocabulary, waiting)
        val pendingIds = file.positions("pending.ids", ids, waiting)
        pending.restore(pendingTokens, pendingIds, file.conversation.text, file.conversation.positions)
    }

    private fun cut(to: Int) {
        cache.trim(to)
        while (slots.size > to) slots.removeAt(slots.lastIndex)
        history.trim(to)
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
