package dev.omniedge.backend

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import dev.omniedge.numeric.Matrix
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * An array on its way into a graph or out of it, row-major.
 *
 * @property shape sizes of its dimensions; one of them may be 0.
 */
sealed class Tensor(val shape: LongArray) {
    /** Number of elements. */
    val size: Int = shape.fold(1L) { product, length -> product * length }.toInt()

    internal abstract val type: OnnxJavaType

    /** Writes [count] elements from [from] on into [target], at its start. */
    internal abstract fun write(target: ByteBuffer, from: Int = 0, count: Int = size)

    /** A copy in memory that ONNX Runtime can read; the caller closes it. */
    internal fun toOnnx(environment: OrtEnvironment): OnnxTensor {
        val buffer = directBuffer(size * type.size)
        write(buffer)
        return OnnxTensor.createTensor(environment, buffer, shape, type)
    }
}

/** float32. */
class FloatTensor(val values: FloatArray, vararg shape: Long) : Tensor(shape) {
    override val type get() = OnnxJavaType.FLOAT

    override fun write(target: ByteBuffer, from: Int, count: Int) {
        target.asFloatBuffer().put(values, from, count)
    }

    /** The elements as a matrix with the last dimension's size of columns. */
    fun toMatrix(): Matrix = shape.last().toInt().let { Matrix(values.size / it, it, values) }
}

/** int64. */
class LongTensor(val values: LongArray, vararg shape: Long) : Tensor(shape) {
    override val type get() = OnnxJavaType.INT64

    override fun write(target: ByteBuffer, from: Int, count: Int) {
        target.asLongBuffer().put(values, from, count)
    }
}

/** int32. */
class IntTensor(val values: IntArray, vararg shape: Long) : Tensor(shape) {
    override val type get() = OnnxJavaType.INT32

    override fun write(target: ByteBuffer, from: Int, count: Int) {
        target.asIntBuffer().put(values, from, count)
    }
}

/** One truth value, bool `[1]`. */
class FlagTensor(val value: Boolean) : Tensor(longArrayOf(1)) {
    override val type get() = OnnxJavaType.BOOL

    override fun write(target: ByteBuffer, from: Int, count: Int) {
        target.put(0, if (value) 1 else 0)
    }
}

internal fun directBuffer(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
