package dev.omniedge.vocoder

import dev.omniedge.backend.FlagTensor
import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.LongTensor
import dev.omniedge.backend.Tensor
import dev.omniedge.bundle.Token2WavSection
import dev.omniedge.numeric.Matrix

/**
 * One block of an utterance between noise and mel.
 *
 * @property codec codec tokens, padded with zeros after the end of the utterance.
 * @property frames mel frames before the end of the utterance, at most `block_frames`.
 * @property solver the solver's state; its `x` is the mel, float32 `[block_frames * mel_dim]`, after the last evaluation.
 */
internal class DitBlock(val codec: IntArray, val frames: Int, val solver: SolverState)

/**
 * The state of one evaluation between runs of the graph.
 *
 * [waiting] are blocks that the graph has not taken yet, [heldBlocks] those that it holds at the look-ahead layers,
 * [held] their hidden states; [leftContext] the keys and values of the last advanced block.
 */
internal class EvaluationState {
    var waiting: List<DitBlock> = emptyList()
    var heldBlocks: List<DitBlock> = emptyList()
    var held: FloatTensor? = null
    var leftContext: Pair<FloatTensor, FloatTensor>? = null
}

/**
 * Runs the `dit` graph at one time point, for one voice.
 *
 * @property speaker float32 `[rows, hidden_size]`: the voice's row and, with guidance, the unconditional one.
 * @property modulation the modulation at this time point, float32 `[layers, 6, hidden_size]`.
 * @property finalModulation that of the last layer, float32 `[2, hidden_size]`.
 */
internal class Evaluator(
    private val graph: Graph,
    private val section: Token2WavSection,
    private val speaker: Matrix,
    private val solver: SolverSettings,
    private val modulation: FloatTensor,
    private val finalModulation: FloatTensor,
) {
    private val rows = speaker.rows
    private val codecsPerBlock = section.blockFrames / section.framesPerCodec
    private val blockValues = section.blockFrames * section.melDim

    /**
     * Takes the next blocks; returns the blocks that this evaluation has advanced, in order.
     *
     * @param blocks the next blocks of the utterance; may be empty.
     * @param provisional how many of the last blocks will be computed again. The left context ends before them.
     * @param hold true when more blocks follow, for which the look-ahead layers hold the last ones.
     */
    fun step(blocks: List<DitBlock>, state: EvaluationState, provisional: Int, hold: Boolean): List<DitBlock> {
        val entering = state.waiting + blocks
        val count = state.heldBlocks.size + entering.size - if (hold) section.lookAheadLayers else 0
        if (count <= 0) {
            state.waiting = entering
            return emptyList()
        }
        val velocity = run(entering, state, provisional, hold)
        val inside = state.heldBlocks + entering
        state.waiting = emptyList()
        state.heldBlocks = inside.drop(count)
        return inside.take(count).mapIndexed { index, block ->
            val own = velocity.copyOfRange(index * blockValues, (index + 1) * blockValues)
            DitBlock(block.codec, block.frames, block.solver.advance(own, solver))
        }
    }

    /** The velocity of the advanced blocks, float32 `[frames * mel_dim]`, before those of no use. */
    private fun run(entering: List<DitBlock>, state: EvaluationState, provisional: Int, hold: Boolean): FloatArray {
        // The graph releases held blocks when a block enters; at the end this one, which has no frames.
        val taken = entering.ifEmpty { listOf(DitBlock(IntArray(codecsPerBlock), 0, SolverState(FloatArray(blockValues)))) }
        val left = state.leftContext
        val feeds: Map<String, Tensor> = mapOf(
            "mel" to mel(taken),
            "codec" to codec(taken),
            "speaker" to FloatTensor(speaker.values, rows.toLong(), speaker.columns.toLong()),
            "modulation" to modulation,
            "final_modulation" to finalModulation,
            "left_keys" to (left?.first ?: noLeftContext()),
            "left_values" to (left?.second ?: noLeftContext()),
            "left_valid" to FlagTensor(left != null),
            "held" to (state.held ?: nothingHeld()),
            "frames" to LongTensor(longArrayOf(taken.sumOf { it.frames }.toLong()), 1),
            "hold" to LongTensor(longArrayOf(if (hold) 1 else 0), 1),
            "keep" to LongTensor(longArrayOf(-1L - provisional), 1),
        )
        val (velocity, keys, values, held) = graph.run(feeds, listOf("velocity", "keys", "values", "next_held"))
        state.leftContext = keys to values
        state.held = held.takeIf { hold }
        return guided(velocity.values)
    }

    private fun guided(velocity: FloatArray): FloatArray {
        if (rows == 1) return velocity
        val weight = solver.guidance.toFloat()
        val half = velocity.size / rows
        return FloatArray(half) { velocity[it] + (velocity[it] - velocity[half + it]) * weight }
    }

    /** The noised mel of every block, once for each row. */
    private fun mel(blocks: List<DitBlock>): FloatTensor {
        val frames = blocks.size * section.blockFrames
        val values = FloatArray(rows * frames * section.melDim)
        for (row in 0 until rows) {
            blocks.forEachIndexed { index, block ->
                block.solver.evaluationPoint(solver).copyInto(values, (row * blocks.size + index) * blockValues)
            }
        }
        return FloatTensor(values, rows.toLong(), frames.toLong(), section.melDim.toLong())
    }

    /** The codec tokens of every block in the first row, zeros in the unconditional one. */
    private fun codec(blocks: List<DitBlock>): LongTensor {
        val count = blocks.size * codecsPerBlock
        val values = LongArray(rows * count)
        for (index in 0 until count) values[index] = blocks[index / codecsPerBlock].codec[index % codecsPerBlock].toLong()
        return LongTensor(values, rows.toLong(), count.toLong())
    }

    private fun noLeftContext() =
        zeros(section.lookBackwardLayers, rows, section.blockFrames, section.attentionSize)

    private fun nothingHeld() =
        zeros(section.lookAheadLayers, rows, 0, section.blockFrames, section.hiddenSize)

    private fun zeros(vararg shape: Int) =
        FloatTensor(FloatArray(shape.fold(1, Int::times)), *LongArray(shape.size) { shape[it].toLong() })
}
