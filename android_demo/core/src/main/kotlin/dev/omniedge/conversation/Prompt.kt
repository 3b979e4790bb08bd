package dev.omniedge.conversation

import dev.omniedge.bundle.Manifest
import dev.omniedge.decoders.INSIDE
import dev.omniedge.decoders.PositionIds
import dev.omniedge.decoders.Positions
import dev.omniedge.decoders.TextTokenizer
import dev.omniedge.decoders.ThinkerBlock
import dev.omniedge.decoders.interleave
import dev.omniedge.decoders.timeIds
import dev.omniedge.decoders.visionGrid
import dev.omniedge.numeric.Matrix
import dev.omniedge.vision.Grid

/**
 * The part of a conversation that is written but not prefilled yet: text, marks (ChatML) and media as blocks for the
 * Thinker, each with its TMRoPE positions.
 *
 * Text is tokenized up to the next mark as a whole, because a tokenizer may merge across the places where it was cut.
 *
 * @param embed gives the embeds float32 `[n, hidden]` of text tokens.
 * @param tokenizer tokenizes text.
 * @param manifest special ids and time scale.
 */
internal class Prompt(
    private val embed: (IntArray) -> Matrix,
    private val tokenizer: TextTokenizer,
    manifest: Manifest,
) {
    private val marks = manifest.text
    private val scale = manifest.positions
    private var textTokens: List<Int> = emptyList()
    private var blocks: List<ThinkerBlock> = emptyList()

    /** The ids that come next. */
    var positions = Positions()
        private set

    /** Positions that wait. */
    val size: Int get() = blocks.sumOf { it.tokens.size } + textTokens.size

    /** Text behind everything else that waits; it has no ids yet. */
    var text = ""
        private set

    /** Whether sound or pictures wait. */
    val holdsMedia: Boolean get() = blocks.any { it.media }

    /** Drops what waits; [positions] are the ids that come next. */
    fun reset(positions: Positions = Positions()) {
        this.positions = positions
        text = ""
        textTokens = emptyList()
        blocks = emptyList()
    }

    /** Hands over everything that waits. */
    fun take(): List<ThinkerBlock> {
        closeText()
        return blocks.also { blocks = emptyList() }
    }

    /** Waits with blocks that were prefilled before; [positions] are the ids behind them. */
    fun refill(blocks: List<ThinkerBlock>, positions: Positions) {
        reset(positions)
        this.blocks = blocks
    }

    /** Tokens that wait before [text], and their ids. */
    fun waiting(): Pair<IntArray, PositionIds> {
        val ids = PositionIds.concatenate(blocks.map { it.positions } + PositionIds.uniform(IntArray(0)))
        return blocks.flatMap { it.tokens.asList() }.toIntArray() to ids
    }

    /**
     * Waits with these text tokens and marks (see [waiting]), [text] and [positions] again. Media do not wait from one
     * call of a session to the next, so their embeds are never asked for.
     */
    fun restore(tokens: IntArray, ids: PositionIds, text: String, positions: Positions) {
        reset(positions)
        if (tokens.isNotEmpty()) append(tokens, ids)
        write(text)
    }

    /** What waits now. */
    fun snapshot() = Snapshot(positions.copy(), text, textTokens, blocks)

    /** Waits for what waited at [snapshot]. */
    fun restore(snapshot: Snapshot) {
        positions = snapshot.positions.copy()
        text = snapshot.text
        textTokens = snapshot.textTokens
        blocks = snapshot.blocks
    }

    /** See [snapshot]. */
    class Snapshot(
        val positions: Positions,
        val text: String,
        val textTokens: List<Int>,
        val blocks: List<ThinkerBlock>,
    )

    /** Appends text. */
    fun write(text: String) {
        this.text += text
        textTokens = tokenizer.encode(this.text)
    }

    /** The opening turn. */
    fun system(text: String) {
        begin("system")
        write(text)
        endTurn()
    }

    /** Opens the user's turn. */
    fun user() = begin("user")

    /** Opens the assistant's turn, which the Thinker continues. */
    fun assistant() = begin("assistant")

    /** Closes the open turn. */
    fun endTurn() {
        mark(tokenizer.turnEnd)
        write("\n")
    }

    /** Appends a token that the Thinker wrote; its id follows the highest one, as in the reference's decoding. */
    fun decoded(token: Int) {
        closeText()
        append(intArrayOf(token), positions.continued(1))
    }

    /** The mark before a sound's blocks. */
    fun beginSound() = mark(marks.audioStartToken)

    /** Audio tokens: [embeds] float32 `[n, hidden]`. */
    fun sound(embeds: Matrix) {
        closeText()
        append(IntArray(embeds.rows) { marks.audioToken }, positions.text(embeds.rows), embeds = embeds)
    }

    /** The mark behind a sound's blocks. */
    fun endSound() = mark(marks.audioEndToken)

    /** A picture of [grid] merged tokens. */
    fun picture(embeds: Matrix, grid: Grid) = vision(marks.imageToken, embeds, intArrayOf(0), grid)

    /** A video of [grid] merged tokens; the embeds of its [sound], where it has one, are interleaved by time. */
    fun video(embeds: Matrix, grid: Grid, secondsPerGrid: Double, sound: Matrix?) {
        val times = timeIds(grid.temporal, secondsPerGrid, scale)
        if (sound == null || sound.rows == 0) return vision(marks.videoToken, embeds, times, grid)
        val mixed = interleave(visionGrid(times, grid.height, grid.width), sound.rows, scale)
        closeText()
        // Two marks share one id, so the context can be cut only in front of the first and behind the last of them.
        append(intArrayOf(marks.visionStartToken, marks.audioStartToken), positions.shared(2), INSIDE)
        val ids = positions.interleaved(mixed)
        val both = Matrix.concatenate(listOf(embeds, sound), embeds.columns)
        val ordered = Matrix(both.rows, both.columns)
        val tokens = IntArray(both.rows) { place ->
            val source = mixed.order[place]
            both.values.copyInto(ordered.values, place * both.columns, source * both.columns, (source + 1) * both.columns)
            if (source < embeds.rows) marks.videoToken else marks.audioToken
        }
        append(tokens, ids, INSIDE, ordered)
        val closing = positions.shared(2)
        append(intArrayOf(marks.audioEndToken, marks.visionEndToken), closing, positions.next)
    }

    private fun vision(token: Int, embeds: Matrix, times: IntArray, grid: Grid) {
        mark(marks.visionStartToken)
        val ids = positions.vision(visionGrid(times, grid.height, grid.width))
        append(IntArray(embeds.rows) { token }, ids, positions.next, embeds)
        mark(marks.visionEndToken)
    }

    private fun mark(token: Int) {
        closeText()
        append(intArrayOf(token), positions.text(1))
    }

    private fun begin(role: String) {
        mark(tokenizer.turnStart)
        write("${marks.roles.getValue(role)}\n")
    }

    private fun closeText() {
        val tokens = textTokens.toIntArray()
        text = ""
        textTokens = emptyList()
        if (tokens.isNotEmpty()) append(tokens, positions.text(tokens.size))
    }

    /**
     * Adds a block.
     *
     * @param lastId where the block cannot be cut: the id that follows it, or [INSIDE]. Null: it can be cut anywhere.
     * @param embeds float32 `[n, hidden]` of media; null: those of the tokens.
     */
    private fun append(tokens: IntArray, ids: PositionIds, lastId: Int? = null, embeds: Matrix? = null) {
        val nextIds = IntArray(tokens.size) { place ->
            when {
                lastId == null -> ids.time[place] + 1
                place == tokens.lastIndex -> lastId
                else -> INSIDE
            }
        }
        blocks = blocks + ThinkerBlock(tokens, embeds ?: embed(tokens), ids, nextIds, media = embeds != null)
    }
}
