package dev.omniedge.audio

import dev.omniedge.UsageException
import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.bundle.AudioSection
import dev.omniedge.numeric.Matrix

// Blocks that go through the graph together: a long recording takes the memory of a few blocks.
private const val BLOCKS_PER_RUN = 4

/**
 * Mel blocks to embeds for the Thinker; immutable. Nothing crosses a block.
 *
 * @param graph the bundle's `audio_encoder`; closed with the encoder.
 * @param section the manifest's audio section.
 */
class AudioEncoder(private val graph: Graph, private val section: AudioSection) : AutoCloseable {
    private val hiddenSize = graph.outputShape("embeds").last().toInt()

    /**
     * The embeds of all blocks, in order.
     *
     * @param blocks float32 `[n_mels, frames]` each; only the last one of a clip is shorter than `block_frames`.
     * @return float32 `[tokens, hidden]`.
     * @throws UsageException a block has another shape.
     */
    fun encode(blocks: List<Matrix>): Matrix {
        blocks.forEach(::check)
        val (full, short) = blocks.partition { it.columns == section.blockFrames }
        val batches = full.chunked(BLOCKS_PER_RUN) + short.map { listOf(it) }
        return Matrix.concatenate(batches.filter { audioTokens(it.first().columns) > 0 }.map(::run), hiddenSize)
    }

    override fun close() = graph.close()

    private fun run(batch: List<Matrix>): Matrix {
        val frames = batch.first().columns
        val stacked = Matrix.concatenate(batch, frames)
        val mel = FloatTensor(stacked.values, batch.size.toLong(), section.nMels.toLong(), frames.toLong())
        return graph.run(mapOf("mel" to mel), listOf("embeds")).single().toMatrix()
    }

    private fun check(block: Matrix) {
        if (block.rows != section.nMels || block.columns !in 1..section.blockFrames) {
            throw UsageException(
                "A mel block has shape [${block.rows}, ${block.columns}]; the audio encoder takes " +
                    "[${section.nMels}, 1 to ${section.blockFrames} frames]. Cut the clip with an AudioFrontEnd.",
            )
        }
    }
}
