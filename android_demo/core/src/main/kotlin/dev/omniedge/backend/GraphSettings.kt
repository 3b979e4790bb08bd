package dev.omniedge.backend

import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtLoggingLevel
import ai.onnxruntime.OrtSession
import java.io.File

/**
 * How graphs are loaded.
 *
 * @property threads cores that one run may use.
 * @property kernels the library of compiled operators; null: graphs run by standard operators alone.
 */
internal class GraphSettings(private val threads: Int, private val kernels: File?) {
    /** Loads [file]; [varying] as in [Graph]. */
    fun open(environment: OrtEnvironment, file: File, varying: Boolean): LoadedGraph = try {
        open(environment, file, varying, exact = true)
    } catch (error: OrtException) {
        // ONNX Runtime cannot make the products of some older bundles exact; those are loaded as they are.
        if ("existing tensor" !in error.message.orEmpty()) throw error
        open(environment, file, varying, exact = false)
    }

    private fun open(environment: OrtEnvironment, file: File, varying: Boolean, exact: Boolean): LoadedGraph {
        val options = OrtSession.SessionOptions()
        try {
            kernels?.let { options.registerCustomOpLibrary(it.path) }
            options.setIntraOpNumThreads(threads)
            options.setInterOpNumThreads(1)
            options.setMemoryPatternOptimization(!varying)
            options.setSessionLogLevel(OrtLoggingLevel.ORT_LOGGING_LEVEL_FATAL)
            // Graphs take turns on the same cores: a pool that spins on behind its run slows the next one down.
            options.addConfigEntry("session.force_spinning_stop", "1")
            // On x86 without VNNI, products of uint8 and int8 would saturate at 16 bits.
            options.addConfigEntry("session.x64quantprecision", if (exact) "1" else "0")
            // Under emulation of a processor with SME, KleidiAI's products were wrong by 40 % of the maximum.
            options.addConfigEntry("mlas.disable_kleidiai", "1")
            return LoadedGraph(environment.createSession(file.path, options), options)
        } catch (error: Throwable) {
            options.close()
            throw error
        }
    }
}

/** A session and its options, which must live as long: closing them unloads the compiled operators. */
internal class LoadedGraph(val session: OrtSession, private val options: OrtSession.SessionOptions) : AutoCloseable {
    override fun close() {
        session.close()
        options.close()
    }
}
