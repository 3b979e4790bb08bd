package dev.omniedge.kernels

import dev.omniedge.backend.Memory
import dev.omniedge.backend.MemorySource
import java.nio.ByteBuffer

/**
 * Memory of the operating system, outside of the Java heap: what KV caches need on Android.
 *
 * Pages become resident as they are written, and go back with [close]. Pass the companion object to
 * [dev.omniedge.OmniEdge.load].
 */
class MappedMemory private constructor(private var pages: ByteBuffer?) : Memory {
    override val buffer: ByteBuffer get() = checkNotNull(pages) { "this memory was given back" }

    override fun close() {
        pages?.let(Pages::unmap)
        pages = null
    }

    companion object : MemorySource {
        override fun allocate(bytes: Int): Memory =
            MappedMemory(Pages.map(bytes.toLong()) ?: throw OutOfMemoryError("the system has no $bytes bytes left"))
    }
}

/** `memory.c`. */
internal object Pages {
    init {
        System.loadLibrary("omni_edge_memory")
    }

    /** [bytes] bytes of zeros; null: there are none left. */
    external fun map(bytes: Long): ByteBuffer?

    /** Gives a buffer of [map] back. */
    external fun unmap(buffer: ByteBuffer)
}
