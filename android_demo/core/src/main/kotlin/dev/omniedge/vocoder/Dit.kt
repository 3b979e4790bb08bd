package dev.omniedge.vocoder

import dev.omniedge.UsageException
import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.bundle.Token2WavSection
import dev.omniedge.numeric.Matrix

/**
 * The mel of one chunk, natural logarithm.
 *
 * @property final float32 `[frames, mel_dim]`, finished frames.
 * @property lookAhead float32 `[frames, mel_dim]`, the frames behind them; provisional in a window, finished in a
 *   wavefront. Empty at the end of the utterance.
 * @property end true when [final] is the last of the utterance.
 */
internal class MelBlock(val final: Matrix, val lookAhead: Matrix, val end: Boolean)

/** The DiT's modulation at each evaluation of a solver; see [Evaluator]. */
internal class TimeTables(val modulation: List<FloatTensor>, val finalModulation: List<FloatTensor>)

/**
 * Computes [TimeTables] once per solver setting; the graph is in memory only while it computes.
 *
 * @param load loads the `dit_time` graph.
 */
class TimeTableCache(private val load: () -> Graph) {
    private val tables = HashMap<List<Float>, TimeTables>()

    @Synchronized
    internal fun tables(settings: SolverSettings): TimeTables = tables.getOrPut(settings.times.asList()) {
        val time = FloatTensor(settings.times, settings.times.size.toLong())
        val (modulation, final) =
            load().use { it.run(mapOf("time" to time), listOf("modulation", "final_modulation")) }
        TimeTables(split(modulation), split(final))
    }

    /** The parts of a tensor along its first dimension. */
    private fun split(tensor: FloatTensor): List<FloatTensor> {
        val shape = tensor.shape.copyOfRange(1, tensor.shape.size)
        val size = tensor.size / tensor.shape[0].toInt()
        return List(tensor.shape[0].toInt()) {
            FloatTensor(tensor.values.copyOfRange(it * size, (it + 1) * size), *shape)
        }
    }
}

/**
 * The state of one utterance in the DiT.
 *
 * @property speaker float32 `[rows, hidden_size]`: the voice's row and, with guidance, the unconditional one.
 */
internal class DitState(
    val speaker: Matrix,
    val tables: TimeTables,
    val solver: SolverSettings,
    val schedule: ChunkSchedule,
    val noise: Noise,
) {
    /** Codec tokens of blocks that no finished chunk has taken in. */
    val pending = ArrayList<Int>()

    /** Blocks that have entered the first evaluation for good. */
    var enteredBlocks = 0

    /** Blocks whose mel has been returned. */
    var emittedBlocks = 0

    /** Finished blocks whose mel has not been returned as final. */
    var finished: List<DitBlock> = emptyList()

    /** Number of chunks so far. */
    var chunk = 0

    /** Whether no codec token follows. */
    var ended = false

    val evaluations = List(solver.evaluations) { EvaluationState() }

    /** Time spent in the DiT, in seconds. */
    var seconds = 0.0
}

/**
 * The `dit` graph: codec tokens to mel, in chunks; immutable.
 *
 * An utterance is divided into blocks, which pass the evaluations of the solver one after the other. Each evaluation
 * keeps what later blocks need of the blocks before them, so finished blocks are never computed again. Chunks start at
 * fixed positions, so the mel does not depend on how codec tokens were grouped.
 *
 * @param melLookAhead finished blocks that a wavefront returns behind the final ones, for BigVGAN's look-ahead.
 */
internal class Dit(private val graph: Graph, private val section: Token2WavSection, private val melLookAhead: Int) {
    private val codecsPerBlock = section.blockFrames / section.framesPerCodec

    /**
     * Takes codec tokens and computes at most one chunk.
     *
     * @param codec the next codec tokens, without control tokens; may be empty.
     * @param end true when no codec token follows.
     * @return the mel of a chunk, or null when more codec tokens are needed. Call again without tokens until then.
     * @throws UsageException a codec token without an embedding, or tokens after the end.
     */
    fun step(codec: List<Int>, state: DitState, end: Boolean = false): MelBlock? {
        push(codec, state)
        state.ended = state.ended || end
        val blocks = state.schedule.finishedBlocks(state.chunk)
        if (blocks != null) {
            val needed = state.emittedBlocks + blocks + lookAhead(state)
            val codecs = (needed - state.enteredBlocks) * codecsPerBlock
            if (state.pending.size >= codecs) return run(state, codecs, blocks)
        }
        val rest = state.pending.isNotEmpty() || state.emittedBlocks < state.enteredBlocks
        return if (state.ended && rest) run(state, state.pending.size, null) else null
    }

    fun close() = graph.close()

    /** Blocks behind the finished ones whose codec tokens a chunk needs. */
    private fun lookAhead(state: DitState): Int = when (state.schedule.order) {
        ChunkOrder.WINDOW -> state.schedule.lookAheadBlocks
        ChunkOrder.WAVEFRONT -> state.solver.evaluations * section.lookAheadLayers + melLookAhead
    }

    private fun push(codec: List<Int>, state: DitState) {
        if (codec.isNotEmpty() && state.ended) {
            throw UsageException("This utterance has ended, so no codec token can follow. Start with a fresh state.")
        }
        codec.firstOrNull { it !in 0 until section.codecLimit }?.let {
            throw UsageException(
                "Codec token $it has no embedding: the vocoder has embeddings for 0 to ${section.codecLimit - 1}. " +
                    "Leave control tokens out.",
            )
        }
        state.pending += codec
    }

    /** Takes in [codecs] pending tokens and finishes [count] blocks. Null: the end, so all blocks. */
    private fun run(state: DitState, codecs: Int, count: Int?): MelBlock {
        val began = System.nanoTime()
        val window = state.schedule.order == ChunkOrder.WINDOW
        var blocks = blocks(state, codecs)
        val provisional = if (window && count != null) blocks.size - count else 0
        val entered = blocks.size - provisional
        state.pending.subList(0, minOf(entered * codecsPerBlock, state.pending.size)).clear()
        state.enteredBlocks += entered
        state.evaluations.forEachIndexed { index, evaluation ->
            blocks = evaluator(state, index).step(blocks, evaluation, provisional, hold = !window && count != null)
        }
        blocks = state.finished + blocks
        val final = blocks.take(count ?: blocks.size)
        val lookAhead = blocks.drop(final.size)
        state.finished = if (window) emptyList() else lookAhead
        state.emittedBlocks += final.size
        state.chunk++
        state.seconds += (System.nanoTime() - began) / 1e9
        return MelBlock(mel(final), mel(lookAhead), end = count == null)
    }

    /** Blocks of noise for the first [codecs] pending tokens. */
    private fun blocks(state: DitState, codecs: Int): List<DitBlock> =
        state.pending.take(codecs).chunked(codecsPerBlock).mapIndexed { index, tokens ->
            val noise = SolverState(state.noise.block(state.enteredBlocks + index))
            DitBlock(tokens.toIntArray().copyOf(codecsPerBlock), tokens.size * section.framesPerCodec, noise)
        }

    private fun evaluator(state: DitState, index: Int) = Evaluator(
        graph,
        section,
        state.speaker,
        state.solver,
        state.tables.modulation[index],
        state.tables.finalModulation[index],
    )

    /** The mel of finished blocks, float32 `[frames, mel_dim]`. */
    private fun mel(blocks: List<DitBlock>): Matrix {
        val frames = blocks.map { Matrix(section.blockFrames, section.melDim, it.solver.x).rows(0, it.frames) }
        return Matrix.concatenate(frames, section.melDim)
    }
}
