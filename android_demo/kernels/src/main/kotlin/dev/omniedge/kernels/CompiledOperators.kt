package dev.omniedge.kernels

import java.io.File

// What a library needs, as Linux names it, the best one first.
private val LIBRARIES = listOf(
    "omni_edge_kernels_i8mm" to setOf("asimddp", "i8mm"),
    "omni_edge_kernels_dotprod" to setOf("asimddp"),
    "omni_edge_kernels" to emptySet(),
)

/** Finds the library of compiled operators for this processor. */
object CompiledOperators {
    /**
     * @param folder where the app's native libraries lie: `applicationInfo.nativeLibraryDir`.
     * @return the library to pass to [dev.omniedge.OmniEdge.load]; null: the app has none for this processor.
     */
    fun find(folder: File, cpuinfo: File = File("/proc/cpuinfo")): File? {
        val features = features(cpuinfo)
        return LIBRARIES.filter { (_, needed) -> features.containsAll(needed) }
            .map { (name, _) -> File(folder, "lib$name.so") }
            .firstOrNull(File::isFile)
    }

    /** What every core of an ARM64 processor has; each core has its own line. */
    private fun features(cpuinfo: File): Set<String> =
        runCatching { cpuinfo.readLines() }.getOrDefault(emptyList())
            .filter { it.startsWith("Features") }
            .map { it.substringAfter(':').trim().split(' ').toSet() }
            .reduceOrNull(Set<String>::intersect)
            .orEmpty()
}
