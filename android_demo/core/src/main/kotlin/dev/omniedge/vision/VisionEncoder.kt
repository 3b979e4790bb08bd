package dev.omniedge.vision

import dev.omniedge.UsageException
import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.IntTensor
import dev.omniedge.backend.LongTensor
import dev.omniedge.backend.Tensor
import dev.omniedge.bundle.VisionSection
import dev.omniedge.numeric.Matrix

// Patches that go through the graph together, as whole temporal patches: bounds the memory of a long video.
private const val PATCHES_PER_RUN = 4096

/**
 * Patches of a picture or a video to embeds for the Thinker; immutable. Nothing crosses a temporal patch.
 *
 * @param graph the bundle's `vision_encoder`; closed with the encoder.
 * @param section the manifest's vision section.
 */
class VisionEncoder(private val graph: Graph, private val section: VisionSection) : AutoCloseable {
    private val values = graph.inputShape("patches").last().toInt()

    /**
     * The embeds of one picture or video, in the order temporal patch, row, column.
     *
     * @return float32 `[tokens, hidden]`, one token for each merge group.
     * @throws UsageException the patches do not fill the grid, or the grid is no multiple of the merge size.
     */
    fun encode(patches: VisionPatches): Matrix {
        val (temporal, height, width) = patches.grid
        val merge = section.mergeSize
        val matrix = patches.patches
        if (height % merge != 0 || width % merge != 0 || matrix.rows != patches.grid.size || matrix.columns != values) {
            throw UsageException(
                "${matrix.rows} patches of ${matrix.columns} values do not fit the grid ${patches.grid}: the vision " +
                    "encoder takes patches of $values values, rows and columns in multiples of $merge. " +
                    "Prepare pictures with an ImageProcessor.",
            )
        }
        val plan = WindowPlan(section, height, width)
        val area = height * width
        val step = maxOf(1, PATCHES_PER_RUN / area)
        val pieces = (0 until temporal step step).map { start ->
            val count = minOf(step, temporal - start)
            run(matrix.rows(start * area, (start + count) * area), count, plan)
        }
        return Matrix.concatenate(pieces, pieces.first().columns)
    }

    override fun close() = graph.close()

    private fun run(patches: Matrix, temporal: Int, plan: WindowPlan): Matrix {
        val count = plan.order.size.toLong()
        val windows = plan.lengths.size
        val lengths = IntArray(temporal * windows) { plan.lengths[it % windows] }
        val feeds: Map<String, Tensor> = mapOf(
            "patches" to FloatTensor(patches.values, temporal.toLong(), count, values.toLong()),
            "order" to LongTensor(plan.order, count),
            "cos" to FloatTensor(plan.cos, count, plan.pairs.toLong()),
            "sin" to FloatTensor(plan.sin, count, plan.pairs.toLong()),
            "slots" to LongTensor(plan.slots, windows.toLong(), plan.longest.toLong()),
            "unslots" to LongTensor(plan.unslots, count),
            "lengths" to IntTensor(lengths, lengths.size.toLong()),
            "restore" to LongTensor(plan.restore, plan.restore.size.toLong()),
        )
        return graph.run(feeds, listOf("embeds")).single().toMatrix()
    }
}
