package dev.omniedge

import dev.omniedge.audio.AudioEncoder
import dev.omniedge.audio.AudioFrontEnd
import dev.omniedge.backend.GraphLoader
import dev.omniedge.backend.LazyParts
import dev.omniedge.backend.MemorySource
import dev.omniedge.bundle.Bundle
import dev.omniedge.bundle.Manifest
import dev.omniedge.decoders.Decoder
import dev.omniedge.decoders.Talker
import dev.omniedge.decoders.TextTokenizer
import dev.omniedge.decoders.Thinker
import dev.omniedge.numeric.Matrix
import dev.omniedge.vision.VisionEncoder
import dev.omniedge.vocoder.TimeTableCache
import dev.omniedge.vocoder.Vocoder

/**
 * Everything that a bundle's weights can do; it holds no state of a conversation.
 *
 * The Thinker is loaded at once, as are the Talker and the vocoder of a bundle that speaks. An encoder is loaded when the
 * first sound or picture comes.
 *
 * @param bundle the opened bundle.
 * @param loader loads its graphs.
 * @param lowMemory keep one of the encoders and the vocoder in memory at a time, and load none at once.
 * @property memory where the memory of KV caches comes from.
 */
internal class Model(
    private val bundle: Bundle,
    private val loader: GraphLoader,
    lowMemory: Boolean,
    val memory: MemorySource,
) : AutoCloseable {
    private val lazyParts = LazyParts(oneAtATime = lowMemory)
    private val timeTables = TimeTableCache { loader.load("dit_time") }
    private val opened = ArrayList<AutoCloseable>()

    val manifest: Manifest get() = bundle.manifest
    val tokenizer: TextTokenizer = TextTokenizer.fromBundle(bundle)
    val audioFrontEnd = AudioFrontEnd(manifest.audio)
    val thinker: Thinker

    /** The Talker; null in a text-only bundle. */
    val talker: Talker?

    init {
        try {
            thinker = Thinker(Decoder(loader.load("thinker"), manifest.thinker), loader.load("token_embedding"))
            opened += thinker
            talker = loadTalker()?.also(opened::add)
            if (talker != null && !lowMemory) vocoder()
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** Mel blocks to embeds. The call loads it where it is not in memory. */
    fun audioEncoder(): AudioEncoder = lazyParts.get("audio_encoder") {
        AudioEncoder(loader.load("audio_encoder", varying = true), manifest.audio)
    }

    /** Patches to embeds. The call loads it where it is not in memory. */
    fun visionEncoder(): VisionEncoder = lazyParts.get("vision_encoder") {
        VisionEncoder(loader.load("vision_encoder", varying = true), manifest.vision)
    }

    /** Codec tokens to samples. The call loads it where it is not in memory. */
    fun vocoder(): Vocoder = lazyParts.get("vocoder") { Vocoder.load(loader, timeTables) }

    /** The embed, float32 `[hidden]`, of the text token that announces speaker [name] to the Talker. */
    fun voiceEmbed(name: String): FloatArray {
        val voice = manifest.voices?.speakers?.get(name) ?: throw UsageException("There is no voice '$name'.")
        return thinker.embed(intArrayOf(voice.bosToken)).values
    }

    /** SHA-256 (hex) of the manifest, which names the bundle in saved conversations. */
    fun bundleSha256(): String = bundle.manifestSha256()

    override fun close() {
        opened.forEach(AutoCloseable::close)
        opened.clear()
        lazyParts.close()
    }

    private fun loadTalker(): Talker? {
        val section = manifest.talker ?: return null
        val sizes = manifest.talkerDecoder ?: return null
        val token2wav = manifest.token2wav ?: return null
        val marks: Matrix = thinker.embed(intArrayOf(section.textEndToken, section.textPadToken))
        val decoder = Decoder(loader.load("talker"), sizes)
        return Talker(decoder, section, token2wav.codecLimit, marks.row(0), marks.row(1))
    }
}
