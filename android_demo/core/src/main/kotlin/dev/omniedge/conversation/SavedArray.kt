package dev.omniedge.conversation

import dev.omniedge.decoders.KvCache
import dev.omniedge.decoders.PositionIds
import dev.omniedge.numeric.Matrix
import java.nio.ByteBuffer
import java.nio.ByteOrder

internal const val FLOAT = "<f4"
internal const val INTEGER = "<i8"
internal const val BYTE = "|i1"

/**
 * An array of a saved conversation; docs/bundle.md lists them.
 *
 * @property dtype one of [FLOAT], [INTEGER] and [BYTE].
 * @property pieces its elements in order, little-endian; a buffer for each part that lies elsewhere in memory.
 */
internal class SavedArray(val name: String, val dtype: String, val shape: List<Int>, val pieces: List<ByteBuffer>) {
    /** Bytes of all elements. */
    val bytes: Long get() = pieces.sumOf { it.remaining().toLong() }

    companion object {
        /** int64 `[n]`. */
        fun integers(name: String, values: List<Int>) = integers(name, values, listOf(values.size))

        /** int64 `[3, n]`. */
        fun positions(name: String, ids: PositionIds) =
            integers(name, ids.axes.flatMap { it.asList() }, listOf(ids.axes.size, ids.size))

        /** float32 `[rows, columns]`. */
        fun floats(name: String, matrix: Matrix): SavedArray {
            val buffer = littleEndian(matrix.values.size * Float.SIZE_BYTES)
            buffer.asFloatBuffer().put(matrix.values)
            return SavedArray(name, FLOAT, listOf(matrix.rows, matrix.columns), listOf(buffer))
        }

        /** Views of the first [count] positions of a cache. Every machine that Kotlin runs on here is little-endian. */
        fun cache(prefix: String, cache: KvCache, count: Int): List<SavedArray> {
            val section = cache.section
            val pairs = section.headDim / 2
            val (dtype, size) = if (section.cacheDtype == "int8") BYTE to 1 else FLOAT to Float.SIZE_BYTES
            fun table(name: String, buffer: ByteBuffer) =
                SavedArray("$prefix.$name", FLOAT, listOf(count, pairs), listOf(view(buffer, 0, count * pairs * Float.SIZE_BYTES)))

            fun layer(name: String, buffer: ByteBuffer): SavedArray {
                val stride = cache.capacity * section.headDim * size
                val heads = List(section.numKvHeads) { view(buffer, it * stride, count * section.headDim * size) }
                return SavedArray("$prefix.$name", dtype, listOf(section.numKvHeads, count, section.headDim), heads)
            }
            return listOf(table("cos", cache.cos.buffer), table("sin", cache.sin.buffer)) +
                cache.keys.indices.flatMap {
                    listOf(layer("keys.$it", cache.keys[it].buffer), layer("values.$it", cache.values[it].buffer))
                }
        }

        /** Zeros, in the byte order of the file. */
        fun littleEndian(bytes: Int): ByteBuffer = ByteBuffer.allocate(bytes).order(ByteOrder.LITTLE_ENDIAN)

        private fun integers(name: String, values: List<Int>, shape: List<Int>): SavedArray {
            val buffer = littleEndian(values.size * Long.SIZE_BYTES)
            buffer.asLongBuffer().put(LongArray(values.size) { values[it].toLong() })
            return SavedArray(name, INTEGER, shape, listOf(buffer))
        }

        private fun view(buffer: ByteBuffer, start: Int, bytes: Int): ByteBuffer {
            val view = buffer.duplicate()
            view.position(start)
            view.limit(start + bytes)
            return view.slice().order(ByteOrder.LITTLE_ENDIAN)
        }
    }
}
