package dev.omniedge.bundle

import dev.omniedge.BundleException

internal const val MANIFEST_NAME = "bundle.json"
private const val FORMAT = "omni-edge-bundle"
private const val FORMAT_VERSION = 1L

// Loops run over the number of layers; anything larger is damage.
private const val MOST_LAYERS = 1 shl 12
private val CACHE_TYPES = setOf("float32", "int8")
private val ROLES = setOf("system", "user", "assistant")

/**
 * Reads the text of `bundle.json`. It is strict: an unknown or missing field, a wrong type and a value that no exporter
 * writes are errors.
 *
 * @throws BundleException naming the field.
 */
internal fun parseManifest(text: String): Manifest {
    val json = try {
        Json.parse(text) as? Map<*, *>
    } catch (error: JsonException) {
        throw BundleException("$MANIFEST_NAME cannot be read (${error.message}). Export the bundle again.", error)
    }
    if (json?.get("format") != FORMAT) throw BundleException("$MANIFEST_NAME is not that of an omni-edge bundle.")
    val version = json["format_version"]
    if (version != FORMAT_VERSION) {
        throw BundleException(
            "$MANIFEST_NAME has format version $version; this version reads $FORMAT_VERSION. " +
                "Export the checkpoint again with this version's omni-export.",
        )
    }
    return Fields("bundle", json).whole { manifest() }.also(::checkSpeech)
}

private fun Fields.manifest(): Manifest {
    ignore("format", "format_version", "generator", "origin")
    val text = section("text") { text() }
    val tokens = text.vocabSize
    return Manifest(
        files = sections("files") { FileEntry(long("bytes", 0, Long.MAX_VALUE), text("sha256")) },
        graphs = sections("graphs") { graph() },
        text = text,
        thinker = section("thinker") { decoder() }.also { if (it.vocabSize != tokens) wrong("text.vocab_size") },
        positions = section("positions") { PositionSection(int("ids_per_second"), number("seconds_per_chunk")) },
        audio = section("audio") { audio() },
        vision = section("vision") { vision() },
        sampling = section("sampling") { sampling() },
        talkerDecoder = sectionOrNull("talker_decoder") { decoder() },
        talker = sectionOrNull("talker") { talker(tokens) },
        talkerSampling = sectionOrNull("talker_sampling") { sampling() },
        token2wav = sectionOrNull("token2wav") { token2wav() },
        voices = sectionOrNull("voices") { voices(tokens) },
    )
}

/** The sections of speech: all of them, or none. */
private fun checkSpeech(manifest: Manifest) {
    val sections =
        listOf(manifest.talkerDecoder, manifest.talker, manifest.talkerSampling, manifest.token2wav, manifest.voices)
    if (sections.any { it == null } && sections.any { it != null }) {
        throw BundleException(
            "$MANIFEST_NAME: speech needs talker_decoder and token2wav, talker, talker_sampling and voices. " +
                "Export the bundle again.",
        )
    }
}

private fun Fields.graph(): GraphEntry {
    ignore("precision", "nodes", "recipes", "calibration")
    return GraphEntry(text("file"), textOrNull("data"), texts("inputs"), texts("outputs"))
}

private fun Fields.text(): TextSection {
    val size = int("vocab_size")
    return TextSection(
        tokenizer = text("tokenizer"),
        vocabSize = size,
        eosTokens = ints("eos_tokens").also { if (it.any { token -> token >= size }) wrong("eos_tokens") },
        turnStart = text("turn_start"),
        turnEnd = text("turn_end"),
        roles = texts("roles").also { if (!it.keys.containsAll(ROLES)) wrong("roles") },
        defaultSystem = text("default_system"),
        speechSystem = text("speech_system"),
        audioToken = id("audio_token", size),
        imageToken = id("image_token", size),
        videoToken = id("video_token", size),
        audioStartToken = id("audio_start_token", size),
        audioEndToken = id("audio_end_token", size),
        visionStartToken = id("vision_start_token", size),
        visionEndToken = id("vision_end_token", size),
    )
}

private fun Fields.decoder(): DecoderSection {
    val headDim = int("head_dim")
    val rotaryDim = int("rotary_dim", to = headDim)
    return DecoderSection(
        hiddenSize = int("hidden_size"),
        numLayers = int("num_layers", to = MOST_LAYERS),
        numKvHeads = int("num_kv_heads"),
        headDim = headDim,
        rotaryDim = rotaryDim,
        ropeTheta = number("rope_theta"),
        mropeSection = ints("mrope_section").also {
            if (it.size != 3 || 2 * it.sum() != rotaryDim) wrong("mrope_section")
        },
        vocabSize = int("vocab_size"),
        maxPositions = int("max_positions"),
        cacheDtype = (textOrNull("cache_dtype") ?: "float32").also { if (it !in CACHE_TYPES) wrong("cache_dtype") },
    )
}

private fun Fields.audio() = AudioSection(
    sampleRate = int("sample_rate"),
    nFft = int("n_fft"),
    hopLength = int("hop_length"),
    nMels = int("n_mels"),
    blockFrames = int("block_frames"),
)

private fun Fields.vision(): VisionSection {
    // How a file's frames are chosen is the caller's part: VideoClip holds chosen frames.
    ignore("video_fps", "video_min_frames", "video_max_frames")
    return VisionSection(
        patchSize = int("patch_size"),
        temporalPatchSize = int("temporal_patch_size"),
        mergeSize = int("merge_size"),
        windowSize = int("window_size"),
        headDim = int("head_dim"),
        ropeTheta = number("rope_theta"),
        minPixels = int("min_pixels"),
        maxPixels = int("max_pixels"),
        videoMinPixels = int("video_min_pixels"),
        videoMaxPixels = int("video_max_pixels"),
        videoTotalPixels = int("video_total_pixels"),
        mean = numbers("mean", 3),
        std = numbers("std", 3).also { if (0.0 in it) wrong("std") },
    )
}

private fun Fields.talker(tokens: Int) = TalkerSection(
    codecStart = id("codec_start"),
    codecEnd = id("codec_end"),
    codecPad = id("codec_pad"),
    codecMask = id("codec_mask"),
    noneCodec = id("none_codec"),
    textEndToken = id("text_end_token", tokens),
    textPadToken = id("text_pad_token", tokens),
)

private fun Fields.token2wav() = Token2WavSection(
    sampleRate = int("sample_rate"),
    melDim = int("mel_dim"),
    samplesPerFrame = int("samples_per_frame"),
    framesPerCodec = int("frames_per_codec"),
    blockFrames = int("block_frames"),
    lookBackwardLayers = int("look_backward_layers", from = 0, to = MOST_LAYERS),
    lookAheadLayers = int("look_ahead_layers", from = 0, to = MOST_LAYERS),
    hiddenSize = int("hidden_size"),
    attentionSize = int("attention_size"),
    codecLimit = int("codec_limit"),
    reachFrames = int("reach_frames", from = 0),
    reachSamples = ints("reach_samples").also { if (it.isEmpty()) wrong("reach_samples") },
)

private fun Fields.voices(tokens: Int): VoiceSection {
    val speakers = sections("speakers") { Voice(id("bos_token", tokens), id("row")) }
    return VoiceSection(
        file = text("file"),
        unconditionalRow = id("unconditional_row"),
        default = text("default").also { if (it !in speakers) wrong("default") },
        speakers = speakers,
    )
}

private fun Fields.sampling() = SamplingSection(
    temperature = number("temperature", orZero = true),
    topK = int("top_k", from = 0),
    topP = number("top_p").also { if (it > 1) wrong("top_p") },
    repetitionPenalty = number("repetition_penalty"),
    maxNewTokens = int("max_new_tokens"),
)
