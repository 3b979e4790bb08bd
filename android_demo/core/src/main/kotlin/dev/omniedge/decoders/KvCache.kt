package dev.omniedge.decoders

import dev.omniedge.backend.BoundTensor
import dev.omniedge.backend.MemorySource
import dev.omniedge.bundle.DecoderSection

/**
 * Keys and values of every layer, and the rotary row of every slot; allocated once.
 *
 * @property capacity number of positions that fit.
 * @property section the decoder's sizes.
 * @param memory where the memory comes from.
 */
class KvCache(val section: DecoderSection, val capacity: Int, memory: MemorySource) : AutoCloseable {
    private val owned = ArrayList<BoundTensor>()

    /** Per layer float32 or int8 `[1, kv_heads, capacity, head_dim]`. */
    internal val keys: List<BoundTensor>
    internal val values: List<BoundTensor>

    /** float32 `[capacity, head_dim / 2]`. */
    internal val cos: BoundTensor
    internal val sin: BoundTensor

    /** Everything bound for runs over a frequent number of positions. */
    internal val steps = HashMap<Int, BoundStep>()

    /** Positions in use. */
    var offset: Int = 0
        internal set

    init {
        val shape = longArrayOf(1, section.numKvHeads.toLong(), capacity.toLong(), section.headDim.toLong())
        fun layers() = List(section.numLayers) {
            val layer =
                if (section.cacheDtype == "int8") BoundTensor.bytes(memory, *shape) else BoundTensor.floats(memory, *shape)
            layer.also(owned::add)
        }
        fun table() = BoundTensor.floats(memory, capacity.toLong(), section.headDim / 2L).also(owned::add)
        try {
            keys = layers()
            values = layers()
            cos = table()
            sin = table()
        } catch (error: Throwable) {
            owned.forEach(BoundTensor::close)
            throw error
        }
    }

    /** Forgets every position from [offset] on. */
    fun trim(offset: Int) {
        require(offset in 0..this.offset) { "a cache of ${this.offset} positions cannot be cut at $offset" }
        this.offset = offset
    }

    override fun close() {
        steps.values.forEach(BoundStep::close)
        steps.clear()
        owned.forEach(BoundTensor::close)
        owned.clear()
    }
}
