package dev.omniedge.backend

import dev.omniedge.BundleException
import dev.omniedge.UsageException
import dev.omniedge.bundle.Bundle
import java.io.File

/**
 * Loads graphs of a bundle by role.
 *
 * @param bundle the bundle with the graphs.
 * @param threads cores that one graph may use; null: all.
 * @param kernels the library of compiled operators, or null.
 * @throws UsageException more threads than cores.
 */
class GraphLoader(val bundle: Bundle, threads: Int?, kernels: File?) {
    private val settings: GraphSettings

    init {
        val cores = Runtime.getRuntime().availableProcessors()
        if (threads != null && threads !in 1..cores) {
            throw UsageException("$threads threads were asked for; this process may use 1 to $cores cores.")
        }
        if (kernels != null && !kernels.isFile) {
            throw UsageException("There is no library of compiled operators $kernels. Build it, or leave it out.")
        }
        settings = GraphSettings(threads ?: cores, kernels)
    }

    /**
     * The graph of [role]; [varying] as in [Graph].
     *
     * @throws BundleException the bundle has none, or a damaged one.
     */
    fun load(role: String, varying: Boolean = false): Graph {
        val entry = bundle.manifest.graphs[role]
            ?: throw BundleException("The bundle ${bundle.folder} has no '$role' graph. Export it again.")
        return Graph(bundle.file(entry.file), entry, settings, varying)
    }
}

/**
 * Parts of the model that are loaded when they are first needed; thread-safe.
 *
 * @param oneAtATime loading a part releases the one before.
 */
class LazyParts(private val oneAtATime: Boolean) : AutoCloseable {
    private val parts = LinkedHashMap<String, AutoCloseable>()

    /** The part [name]; [load] makes it where it is not in memory. */
    @Synchronized
    fun <T : AutoCloseable> get(name: String, load: () -> T): T {
        @Suppress("UNCHECKED_CAST")
        parts[name]?.let { return it as T }
        if (oneAtATime) close()
        return load().also { parts[name] = it }
    }

    @Synchronized
    override fun close() {
        parts.values.forEach(AutoCloseable::close)
        parts.clear()
    }
}
