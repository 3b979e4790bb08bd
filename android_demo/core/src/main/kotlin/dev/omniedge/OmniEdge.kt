package dev.omniedge

import dev.omniedge.backend.GraphLoader
import dev.omniedge.backend.MemorySource
import dev.omniedge.bundle.Bundle
import dev.omniedge.bundle.Manifest
import dev.omniedge.conversation.Session
import dev.omniedge.conversation.SessionSettings
import java.io.File

/**
 * A loaded bundle: Qwen2.5-Omni on this machine's processor. [load] makes one; [session] starts a conversation on it.
 *
 * ```kotlin
 * OmniEdge.load(folder).use { engine ->
 *     engine.session(SessionSettings(voice = "Chelsie")).use { session ->
 *         session.push(AudioClip(samples, rate = 16_000))
 *         session.reply().collect { event -> if (event is AudioChunk) play(event.samples) }
 *     }
 * }
 * ```
 */
class OmniEdge private constructor(private val model: Model) : AutoCloseable {
    /** The description of the bundle: every size, rate and special id. */
    val manifest: Manifest get() = model.manifest

    /** Names of the speakers; empty in a text-only bundle. */
    val voices: List<String> get() = manifest.voices?.speakers?.keys.orEmpty().toList()

    /** Bytes of all files of the bundle. */
    val bytes: Long get() = manifest.files.values.sumOf { it.bytes }

    /**
     * Starts a conversation; [Session.close] gives its memory back.
     *
     * @throws UsageException the bundle cannot do what is asked: an unknown voice, speech from a text-only bundle, a
     *   context that the model cannot hold.
     */
    fun session(settings: SessionSettings = SessionSettings()): Session = Session(model, settings)

    /**
     * Takes up a conversation that [Session.save] or the Python runtime put away, with this bundle.
     *
     * The file's settings hold, but for what this runtime does not have: live video, and chunks sized by the clock.
     *
     * @throws ConversationException the file is missing, damaged, of another format version or of another bundle.
     */
    fun resume(path: File): Session = Session.resume(model, path)

    /** Gives the memory of the weights back; close the sessions first. */
    override fun close() = model.close()

    companion object {
        /**
         * Loads the bundle in folder [path], for seconds: keep it off the main thread.
         *
         * @param path the folder that holds `bundle.json`.
         * @param threads cores to use; null: all that this process may run on.
         * @param kernels the library of compiled operators for this processor; null: standard operators alone, slower.
         * @param verify hash every file first; sizes and small files are always checked.
         * @param lowMemory keep one of the encoders and the vocoder in memory at a time, for one session: less memory,
         *   and a pause whenever the conversation needs another one.
         * @param memory where the memory of KV caches comes from.
         * @throws BundleException the folder is no bundle, or a damaged one.
         * @throws ResourceException not enough memory.
         */
        fun load(
            path: File,
            threads: Int? = null,
            kernels: File? = null,
            verify: Boolean = false,
            lowMemory: Boolean = false,
            memory: MemorySource = MemorySource.Direct,
        ): OmniEdge {
            val bundle = Bundle(path, verify)
            return OmniEdge(Model(bundle, GraphLoader(bundle, threads, kernels), lowMemory, memory))
        }
    }
}
