package dev.omniedge.backend

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import dev.omniedge.ResourceException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Zeroed memory outside of the JVM's control of objects. */
interface Memory : AutoCloseable {
    /** All of it; not to be used after [close]. */
    val buffer: ByteBuffer

    /** Gives the memory back; a second call does nothing. */
    override fun close()
}

/**
 * Where the memory of KV caches comes from.
 *
 * On Android `ByteBuffer.allocateDirect` takes memory from the Java heap, which is limited to a few hundred MB; an app
 * passes the kernels module's `MappedMemory` instead.
 */
fun interface MemorySource {
    /** @throws OutOfMemoryError there are no [bytes] bytes. */
    fun allocate(bytes: Int): Memory

    companion object {
        /** `ByteBuffer.allocateDirect`; the garbage collector frees it. */
        val Direct = MemorySource { bytes ->
            object : Memory {
                override val buffer = ByteBuffer.allocateDirect(bytes)

                override fun close() = Unit
            }
        }
    }
}

/**
 * An array that a graph reads and writes in place, in memory that the caller owns.
 *
 * @param memory its memory; closed with the array.
 */
class BoundTensor private constructor(
    private val memory: Memory,
    type: OnnxJavaType,
    shape: LongArray,
) : AutoCloseable {
    /** The elements, in the byte order of the machine. */
    val buffer: ByteBuffer = memory.buffer.order(ByteOrder.nativeOrder())

    internal val onnx: OnnxTensor = OnnxTensor.createTensor(OrtEnvironment.getEnvironment(), buffer, shape, type)

    override fun close() {
        onnx.close()
        memory.close()
    }

    internal companion object {
        /** float32 zeros from [source]. */
        fun floats(source: MemorySource, vararg shape: Long) = allocate(source, OnnxJavaType.FLOAT, shape)

        /** int8 zeros from [source]. */
        fun bytes(source: MemorySource, vararg shape: Long) = allocate(source, OnnxJavaType.INT8, shape)

        /** An int32 zero. */
        fun int() = allocate(MemorySource.Direct, OnnxJavaType.INT32, longArrayOf(1))

        /** Zeros of the type of [tensor], in its shape but for dimension 1, whose size is [count]. */
        fun like(tensor: Tensor, count: Int): BoundTensor =
            allocate(MemorySource.Direct, tensor.type, tensor.shape.clone().also { it[1] = count.toLong() })

        private fun allocate(source: MemorySource, type: OnnxJavaType, shape: LongArray): BoundTensor {
            val bytes = shape.fold(type.size.toLong()) { product, length -> product * length }
            if (bytes > Int.MAX_VALUE) {
                throw ResourceException("One array would take $bytes bytes; choose a smaller context.")
            }
            return BoundTensor(source.allocate(bytes.toInt()), type, shape)
        }
    }
}
