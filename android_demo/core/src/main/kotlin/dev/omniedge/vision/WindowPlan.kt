package dev.omniedge.vision

import dev.omniedge.bundle.VisionSection
import kotlin.math.cos
import kotlin.math.pow
import kotlin.math.sin

/**
 * The vision graph's inputs that depend on the grid alone.
 *
 * Window order: windows from left to right and top to bottom, in each window its merge groups in the same order, in each
 * group its patches in the same order. Source: `get_vision_window_index` and `get_vision_position_ids` of transformers.
 *
 * @param height rows of patches, a multiple of the merge size.
 * @param width columns of patches, a multiple of the merge size.
 */
internal class WindowPlan(section: VisionSection, height: Int, width: Int) {
    private val merge = section.mergeSize
    private val group = merge * merge
    private val rows = height / merge
    private val columns = width / merge
    private val side = section.windowSize / merge / section.patchSize
    private val windows = (columns + side - 1) / side

    /** Tokens in window order, each by its place in picture order. */
    private val tokens: List<Int> = (0 until rows * columns).sortedBy(::window)

    /** For every patch in window order, its place in merge-group order: int64 `[patches]`. */
    val order = LongArray(tokens.size * group) { tokens[it / group].toLong() * group + it % group }

    /** For every token in picture order, its place in window order: int64 `[tokens]`. */
    val restore = LongArray(tokens.size).also { places ->
        tokens.forEachIndexed { place, token -> places[token] = place.toLong() }
    }

    /** Patches of each window: int32 `[windows]`. */
    val lengths: IntArray = tokens.groupingBy(::window).eachCount().toSortedMap().values.map { it * group }.toIntArray()

    /** Patches of the largest window. */
    val longest: Int = lengths.max()

    /** For every window, its patches in window order; its last one is repeated: int64 `[windows, longest]`. */
    val slots = LongArray(lengths.size * longest)

    /** The place of every patch in [slots]: int64 `[patches]`. */
    val unslots = LongArray(order.size)

    /** Rotary pairs of the row, then of the column, in window order: float32 `[patches, pairs]`. */
    val cos: FloatArray
    val sin: FloatArray

    /** Number of rotary pairs. */
    val pairs: Int = section.headDim / 2

    init {
        var start = 0
        for ((window, length) in lengths.withIndex()) {
            for (place in 0 until longest) {
                val slot = window * longest + place
                slots[slot] = (start + minOf(place, length - 1)).toLong()
                if (place < length) unslots[start + place] = slot.toLong()
            }
            start += length
        }
        val angles = angles(section)
        cos = FloatArray(angles.size) { cos(angles[it].toDouble()).toFloat() }
        sin = FloatArray(angles.size) { sin(angles[it].toDouble()).toFloat() }
    }

    private fun window(token: Int): Int = token / columns / side * windows + token % columns / side

    private fun angles(section: VisionSection): FloatArray {
        val half = pairs / 2
        val frequencies = FloatArray(half) {
            1f / section.ropeTheta.toFloat().toDouble().pow((2f * it / pairs).toDouble()).toFloat()
        }
        return FloatArray(order.size * pairs) { index ->
            val patch = index / pairs
            val pair = index % pairs
            val token = tokens[patch / group]
            val inner = patch % group
            val row = token / columns * merge + inner / merge
            val column = token % columns * merge + inner % merge
            (if (pair < half) row else column).toFloat() * frequencies[pair % half]
        }
    }
}
