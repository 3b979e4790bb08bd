package dev.omniedge.conversation

/** A place in a conversation to go back to, for replies that are computed before it is certain that they are wanted. */
class Snapshot internal constructor(
    internal val context: ContextSnapshot,
    internal val turns: Turns,
    internal val live: LiveSound?,
)

/**
 * A place in a context.
 *
 * @property prefilled positions in the Thinker's cache.
 * @property pending what waited.
 */
internal class ContextSnapshot(val prefilled: Int, val pending: Prompt.Snapshot)
