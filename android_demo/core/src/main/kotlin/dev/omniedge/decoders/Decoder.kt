package dev.omniedge.decoders

import dev.omniedge.ContextFullException
import dev.omniedge.backend.BoundTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.MemorySource
import dev.omniedge.backend.Tensor
import dev.omniedge.bundle.DecoderSection
import dev.omniedge.numeric.Matrix

// Longer inputs are prefilled in pieces of this many positions: as fast as larger ones, with a lower peak.
private const val PREFILL_POSITIONS = 128

/**
 * What a decoder computes of S positions.
 *
 * @property hidden float32 `[S, hidden]`.
 * @property logits float32 `[vocabulary]` of the last position.
 */
class Decoded(val hidden: Matrix, val logits: FloatArray)

/**
 * Runs a decoder graph over a cache; immutable.
 *
 * @param graph a `thinker` or `talker` graph; closed with the decoder.
 * @property section its sizes.
 */
class Decoder(private val graph: Graph, val section: DecoderSection) : AutoCloseable {
    private val rotary = RotaryTable(section)

    /**
     * Appends S positions to the cache.
     *
     * @param inputs the graph's own inputs by role, each `[1, S, ...]`.
     * @throws ContextFullException the cache has no room for S more positions; nothing was changed.
     */
    fun step(inputs: Map<String, Tensor>, positions: PositionIds, cache: KvCache): Decoded {
        val count = positions.size
        reserve(count, cache)
        val hidden = Matrix(count, section.hiddenSize)
        val logits = FloatArray(section.vocabSize)
        for (start in 0 until count step PREFILL_POSITIONS) {
            val size = minOf(PREFILL_POSITIONS, count - start)
            val step = cache.steps[size] ?: BoundStep(graph, section, inputs, size, cache)
            try {
                for ((role, tensor) in inputs) {
                    val perPosition = tensor.size / count
                    tensor.write(step.own.getValue(role).buffer, start * perPosition, size * perPosition)
                }
                val end = cache.offset + size
                rotary.write(
                    positions.slice(start, start + size),
                    cache.offset,
                    cache.cos.buffer.asFloatBuffer(),
                    cache.sin.buffer.asFloatBuffer(),
                )
                step.run(graph, end)
                cache.offset = end
                step.hidden.buffer.asFloatBuffer().get(hidden.values, start * section.hiddenSize, size * section.hiddenSize)
                step.logits.buffer.asFloatBuffer().get(logits)
            } finally {
                // The two frequent lengths: one position while decoding, whole pieces of a long prompt.
                if (size == 1 || size == PREFILL_POSITIONS) cache.steps[size] = step else step.close()
            }
        }
        return Decoded(hidden, logits)
    }

    /**
     * Checks that [count] more positions fit.
     *
     * @throws ContextFullException they do not.
     */
    fun reserve(count: Int, cache: KvCache) {
        if (cache.offset + count <= cache.capacity) return
        val limit = section.maxPositions
        val way = when {
            count > limit -> "The model itself holds $limit: send less, a shorter sound or a smaller picture."
            cache.capacity < limit -> "Send less, start a new conversation (reset), or raise the context (up to $limit)."
            else -> "Send less, or start a new conversation (reset)."
        }
        throw ContextFullException(
            "The context is full: ${cache.offset} of ${cache.capacity} positions are used and $count more are needed. $way",
        )
    }

    override fun close() = graph.close()
}

/** Everything bound for runs over a fixed number of positions. */
internal class BoundStep(
    graph: Graph,
    section: DecoderSection,
    inputs: Map<String, Tensor>,
    count: Int,
    cache: KvCache,
) : AutoCloseable {
    /** The graph's own inputs by role. */
    val own: Map<String, BoundTensor> = inputs.mapValues { (_, tensor) -> BoundTensor.like(tensor, count) }
    val hidden = BoundTensor.floats(MemorySource.Direct, 1, count.toLong(), section.hiddenSize.toLong())
    val logits = BoundTensor.floats(MemorySource.Direct, 1, 1, section.vocabSize.toLong())
    private val lastSlot = BoundTensor.int()
    private val total = BoundTensor.int()
    private val inputs = HashMap<String, BoundTensor>()
    private val outputs = HashMap<String, BoundTensor>()

    init {
        val shared = mapOf("last_slot" to lastSlot, "total" to total, "cos" to cache.cos, "sin" to cache.sin)
        for ((role, tensor) in own + shared) this.inputs[graph.inputName(role)] = tensor
        for ((kind, tensors) in listOf("key" to cache.keys, "value" to cache.values)) {
            tensors.forEachIndexed { layer, tensor ->
                this.inputs[graph.inputName("past_$kind", layer)] = tensor
                outputs[graph.outputName("present_$kind", layer)] = tensor
            }
        }
        outputs[graph.outputName("hidden")] = hidden
        outputs[graph.outputName("logits")] = logits
    }

    /** Runs once; the cache holds [end] positions afterwards. */
    fun run(graph: Graph, end: Int) {
        lastSlot.buffer.putInt(0, end - 1)
        total.buffer.putInt(0, end)
        graph.run(inputs, outputs)
    }

    override fun close() = (own.values + hidden + logits + lastSlot + total).forEach(BoundTensor::close)
}
