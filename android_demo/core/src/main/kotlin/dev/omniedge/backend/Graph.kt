package dev.omniedge.backend

import ai.onnxruntime.NodeInfo
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtException
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.omniedge.BundleException
import dev.omniedge.OmniEdgeException
import dev.omniedge.ResourceException
import dev.omniedge.bundle.GraphEntry
import java.io.File

/**
 * A loaded ONNX graph, its weights mapped from disk; immutable, shared between sessions and threads.
 *
 * @param file the `.onnx` file.
 * @param entry which tensor plays which role.
 * @param varying every call may have another shape, as pictures have; memory is given back after each call.
 * @throws BundleException the file cannot be loaded as a graph.
 * @throws ResourceException there is not enough memory.
 */
class Graph internal constructor(
    private val file: File,
    private val entry: GraphEntry,
    settings: GraphSettings,
    varying: Boolean = false,
) : AutoCloseable {
    private val environment = OrtEnvironment.getEnvironment()
    private val loaded = try {
        settings.open(environment, file, varying)
    } catch (error: OrtException) {
        throw failure(error, "load", "Export the bundle again.")
    }
    private val session = loaded.session
    private val runOptions = OrtSession.RunOptions().apply {
        if (varying) addRunConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0")
    }

    /** Roles of the inputs. */
    val inputs: Set<String> get() = entry.inputs.keys

    /** The shape of an input; a dimension that varies is -1. */
    fun inputShape(role: String): LongArray = shape(session.inputInfo, inputName(role))

    /** The shape of an output; a dimension that varies is -1. */
    fun outputShape(role: String): LongArray = shape(session.outputInfo, outputName(role))

    /** The tensor name of an input role; [layer] fills a per-layer name. */
    fun inputName(role: String, layer: Int? = null): String = name(entry.inputs, role, layer)

    /** The tensor name of an output role; [layer] fills a per-layer name. */
    fun outputName(role: String, layer: Int? = null): String = name(entry.outputs, role, layer)

    /**
     * Runs once.
     *
     * @param feeds input role to array.
     * @param outputs roles of float32 outputs.
     * @return the outputs, in the order of [outputs].
     */
    fun run(feeds: Map<String, Tensor>, outputs: List<String>): List<FloatTensor> {
        val names = outputs.map { outputName(it) }
        val inputs = HashMap<String, OnnxTensor>()
        try {
            for ((role, tensor) in feeds) inputs[inputName(role)] = tensor.toOnnx(environment)
            session.run(inputs, names.toSet(), runOptions).use { result ->
                // By place, which is that of the name; by name comes an Optional, which the API 23 of the checks has not.
                return names.indices.map { place ->
                    val tensor = result[place] as OnnxTensor
                    FloatTensor(tensor.floatBuffer.array(), *tensor.info.shape)
                }
            }
        } catch (error: OrtException) {
            throw runFailure(error)
        } finally {
            inputs.values.forEach(OnnxTensor::close)
        }
    }

    /**
     * Runs once over arrays that stay where they are. One array as an input and as an output is updated in place.
     *
     * @param inputs tensor name to array.
     * @param outputs tensor name to array.
     */
    fun run(inputs: Map<String, BoundTensor>, outputs: Map<String, BoundTensor>) {
        try {
            session.run(inputs.mapValues { it.value.onnx }, emptySet(), outputs.mapValues { it.value.onnx }).close()
        } catch (error: OrtException) {
            throw runFailure(error)
        }
    }

    override fun close() {
        runOptions.close()
        loaded.close()
    }

    private fun name(names: Map<String, String>, role: String, layer: Int?): String {
        val name = names[role]
            ?: throw BundleException("The manifest names no tensor '$role' of ${file.name}. Export the bundle again.")
        return name.replace("{layer}", layer.toString())
    }

    private fun shape(tensors: Map<String, NodeInfo>, name: String): LongArray {
        val tensor = tensors[name]
            ?: throw BundleException("${file.name} has no tensor '$name', which the manifest names. Export it again.")
        return (tensor.info as TensorInfo).shape
    }

    private fun runFailure(error: OrtException) =
        failure(error, "run", "Check the bundle with 'omni-edge info', and export it again.")

    /** Why it failed: memory, or a graph that does not fit its manifest. The first line of ONNX Runtime says it. */
    private fun failure(error: OrtException, what: String, next: String): OmniEdgeException {
        val reason = error.message.orEmpty().lineSequence().first().take(LONGEST_REASON)
        if ("alloc" in reason.lowercase()) {
            return ResourceException(
                "Not enough memory to $what ${file.name} ($reason). Close other apps, or use a smaller input.",
                error,
            )
        }
        return BundleException("ONNX Runtime does not $what ${file.name}: $reason. $next", error)
    }

    private companion object {
        const val LONGEST_REASON = 200
    }
}
