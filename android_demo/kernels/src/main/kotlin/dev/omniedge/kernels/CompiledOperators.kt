package dev.omniedge.kernels

import java.io.File

/** Finds the library of compiled operators for this processor. */
object CompiledOperators {
    /**
     * @param folder where the app's native libraries lie: `applicationInfo.nativeLibraryDir`.
     * @return the library to pass to [dev.omniedge.OmniEdge.load]; null: the app has none for this processor.
     */
    fun find(folder: File, cpuinfo: File = File("/proc/cpuinfo")): File? {
        val names = listOfNotNull("omni_edge_kernels_dotprod".takeIf { hasDotProduct(cpuinfo) }, "omni_edge_kernels")
        return names.map { File(folder, "lib$it.so") }.firstOrNull(File::isFile)
    }

    /** Whether every core of an ARM64 processor multiplies bytes four at a time; each core has its own line. */
    private fun hasDotProduct(cpuinfo: File): Boolean {
        val features = runCatching { cpuinfo.readLines() }.getOrDefault(emptyList()).filter { it.startsWith("Features") }
        return features.isNotEmpty() && features.all { "asimddp" in it.substringAfter(':').trim().split(' ') }
    }
}
