package dev.omniedge.decoders

import dev.omniedge.bundle.PositionSection

/** Position ids of n positions on the axes [time], [height] and [width], each int32 `[n]`. */
class PositionIds(val time: IntArray, val height: IntArray, val width: IntArray) {
    /** Number of positions. */
    val size: Int get() = time.size

    /** The axes in the order of a rotary table. */
    val axes: List<IntArray> get() = listOf(time, height, width)

    /** The largest id of position [index]. */
    fun largest(index: Int): Int = maxOf(time[index], height[index], width[index])

    /** The positions from [from] to [to], the latter excluded. */
    fun slice(from: Int, to: Int): PositionIds = map { it.copyOfRange(from, to) }

    /** The positions in another order: number [order]`[i]` comes at place i. */
    fun pick(order: IntArray): PositionIds = map { axis -> IntArray(order.size) { axis[order[it]] } }

    /** These ids, all moved by [start]. */
    operator fun plus(start: Int): PositionIds = map { axis -> IntArray(axis.size) { axis[it] + start } }

    private fun map(change: (IntArray) -> IntArray) = PositionIds(change(time), change(height), change(width))

    companion object {
        /** The same ids on all three axes, as text and sound have. */
        fun uniform(ids: IntArray) = PositionIds(ids, ids, ids)

        /** All parts, one after the other. */
        fun concatenate(parts: List<PositionIds>): PositionIds = parts.singleOrNull() ?: PositionIds(
            join(parts.map { it.time }),
            join(parts.map { it.height }),
            join(parts.map { it.width }),
        )

        private fun join(parts: List<IntArray>): IntArray {
            val whole = IntArray(parts.sumOf { it.size })
            parts.fold(0) { end, part -> part.copyInto(whole, end).let { end + part.size } }
            return whole
        }
    }
}

/**
 * TMRoPE: the next position ids of a growing context.
 *
 * Source: transformers `get_rope_index` of Qwen2.5-Omni; technical report arXiv 2503.20215, section 2.2.
 *
 * @property next the id that a following text token or span starts from.
 * @property highest the largest id in use; decoding continues after it. -1: none.
 */
data class Positions(var next: Int = 0, var highest: Int = -1) {
    /** Ids of [count] positions of text or of sound alone: all three rise by one per token. */
    fun text(count: Int): PositionIds = take(PositionIds.uniform(IntArray(count) { next + it }))

    /** Ids of [count] marks that share one id, as those around a video with sound do. */
    fun shared(count: Int): PositionIds = take(PositionIds.uniform(IntArray(count) { next }))

    /** Ids of decoded text: they follow the highest id in use. */
    fun continued(count: Int): PositionIds {
        next = highest + 1
        return text(count)
    }

    /** Ids of a picture or a video: offsets of [visionGrid], all moved to the present place. */
    fun vision(offsets: PositionIds): PositionIds = take(offsets + next)

    /** Ids of a video with its sound; as in the reference, the next id follows the last run's largest one. */
    fun interleaved(video: InterleavedVideo): PositionIds {
        val start = next
        return take(video.offsets + start).also { next = start + video.last + 1 }
    }

    private fun take(ids: PositionIds): PositionIds {
        if (ids.size > 0) {
            val largest = (0 until ids.size).maxOf(ids::largest)
            next = largest + 1
            highest = maxOf(highest, largest)
        }
        return ids
    }
}

/** Offsets of merged vision tokens: [times], then rows and columns of [height] x [width] tokens. */
internal fun visionGrid(times: IntArray, height: Int, width: Int): PositionIds {
    val area = height * width
    val count = times.size * area
    return PositionIds(
        IntArray(count) { times[it / area] },
        IntArray(count) { it % area / width },
        IntArray(count) { it % width },
    )
}

/** Time ids of [count] temporal patches; computed in float32 like the reference, which truncates. */
internal fun timeIds(count: Int, secondsPerGrid: Double, section: PositionSection): IntArray =
    IntArray(count) { (it.toFloat() * secondsPerGrid.toFloat() * section.idsPerSecond.toFloat()).toInt() }

/**
 * The order and the position offsets of a video's tokens with its sound.
 *
 * @property order int32 `[n]`; index into the concatenation of video tokens, then audio tokens.
 * @property offsets relative to the span's first id, in that order.
 * @property last the largest offset of the last run: the reference continues from there.
 */
class InterleavedVideo(val order: IntArray, val offsets: PositionIds, val last: Int)

/** Cuts [video] offsets and [audioTokens] audio tokens into chunks by time: each chunk's video, then its sound. */
internal fun interleave(video: PositionIds, audioTokens: Int, section: PositionSection): InterleavedVideo {
    val idsPerChunk = (section.idsPerSecond * section.secondsPerChunk).toInt()
    val all = PositionIds.concatenate(listOf(video, PositionIds.uniform(IntArray(audioTokens) { it })))
    val runs = listOf(
        chunks(video.time, idsPerChunk),
        chunks(IntArray(audioTokens) { it }, idsPerChunk).map { (it.first + video.size)..(it.last + video.size) },
    )
    val ordered = (0 until runs.maxOf { it.size })
        .flatMap { chunk -> runs.mapNotNull { it.getOrNull(chunk) } }
        .filterNot { it.isEmpty() }
    val order = ordered.flatten().toIntArray()
    return InterleavedVideo(order, all.pick(order), ordered.last().maxOf(all::largest))
}

/**
 * The runs of ascending time offsets, one per chunk.
 *
 * As in the reference, a gap of several chunks closes only one of them per token that lies behind it.
 */
private fun chunks(times: IntArray, idsPerChunk: Int): List<IntRange> {
    val runs = ArrayList<IntRange>()
    var start = 0
    for ((index, time) in times.withIndex()) {
        if (time >= (runs.size + 1) * idsPerChunk) {
            runs += start until index
            start = index
        }
    }
    runs += start until times.size
    return runs
}
