package dev.omniedge.bundle

/**
 * `bundle.json`: what a bundle says of itself. Every size, rate and special id of the model comes from here.
 *
 * `docs/bundle.md` documents the format. [talkerDecoder], [talker], [talkerSampling], [token2wav] and [voices] are null
 * in a text-only bundle.
 */
class Manifest(
    val files: Map<String, FileEntry>,
    val graphs: Map<String, GraphEntry>,
    val text: TextSection,
    val thinker: DecoderSection,
    val positions: PositionSection,
    val audio: AudioSection,
    val vision: VisionSection,
    val sampling: SamplingSection,
    val talkerDecoder: DecoderSection?,
    val talker: TalkerSection?,
    val talkerSampling: SamplingSection?,
    val token2wav: Token2WavSection?,
    val voices: VoiceSection?,
) {
    /** The files that sections name: of graphs and their data, the tokenizer and the voices. */
    val usedFiles: List<String>
        get() = graphs.values.flatMap { listOfNotNull(it.file, it.data) } + text.tokenizer + listOfNotNull(voices?.file)
}

/** Size in bytes and SHA-256 (hex) of one file. */
class FileEntry(val bytes: Long, val sha256: String)

/**
 * One graph: its file, the file of its large weights, and which tensor plays which role.
 *
 * A tensor's name with `{layer}` stands for one tensor per layer.
 */
class GraphEntry(
    val file: String,
    val data: String?,
    val inputs: Map<String, String>,
    val outputs: Map<String, String>,
)

/**
 * The tokenizer, the marks of a conversation (ChatML) and the ids that stand for media.
 *
 * [defaultSystem] "" means that a conversation has no system turn by default.
 */
class TextSection(
    val tokenizer: String,
    val vocabSize: Int,
    val eosTokens: List<Int>,
    val turnStart: String,
    val turnEnd: String,
    val roles: Map<String, String>,
    val defaultSystem: String,
    val speechSystem: String,
    val audioToken: Int,
    val imageToken: Int,
    val videoToken: Int,
    val audioStartToken: Int,
    val audioEndToken: Int,
    val visionStartToken: Int,
    val visionEndToken: Int,
)

/**
 * A decoder's sizes, as its graph has them: [headDim] is the cache's, [rotaryDim] the model's.
 *
 * [mropeSection] counts rotary pairs taken from time, height and width. [cacheDtype] is the cache's element type,
 * "float32" or "int8".
 */
class DecoderSection(
    val hiddenSize: Int,
    val numLayers: Int,
    val numKvHeads: Int,
    val headDim: Int,
    val rotaryDim: Int,
    val ropeTheta: Double,
    val mropeSection: List<Int>,
    val vocabSize: Int,
    val maxPositions: Int,
    val cacheDtype: String,
)

/** TMRoPE: how seconds of sound and video become time ids. */
class PositionSection(val idsPerSecond: Int, val secondsPerChunk: Double)

/** The log-mel front end and the audio encoder's blocks (lengths in mel frames). */
class AudioSection(
    val sampleRate: Int,
    val nFft: Int,
    val hopLength: Int,
    val nMels: Int,
    val blockFrames: Int,
)

/** Picture preprocessing and the vision encoder's windows (lengths in pixels unless said otherwise). */
data class VisionSection(
    val patchSize: Int,
    val temporalPatchSize: Int,
    val mergeSize: Int,
    val windowSize: Int,
    val headDim: Int,
    val ropeTheta: Double,
    val minPixels: Int,
    val maxPixels: Int,
    val videoMinPixels: Int,
    val videoMaxPixels: Int,
    val videoTotalPixels: Int,
    val mean: List<Double>,
    val std: List<Double>,
)

/** The codec's special tokens; [noneCodec] is the id of an all-zero embedding row (a position without a codec). */
class TalkerSection(
    val codecStart: Int,
    val codecEnd: Int,
    val codecPad: Int,
    val codecMask: Int,
    val noneCodec: Int,
    val textEndToken: Int,
    val textPadToken: Int,
)

/**
 * The vocoder: rates, what the DiT keeps from block to block, how far BigVGAN sees.
 *
 * [blockFrames] mel frames make a DiT block. [lookBackwardLayers] layers keep keys and values of the last block,
 * [attentionSize] wide; each of [lookAheadLayers] layers can hold a block back, [hiddenSize] wide. Codec ids below
 * [codecLimit] have an embedding. BigVGAN's receptive field reaches [reachFrames] mel frames to each side;
 * [reachSamples] of context must survive each of its levels.
 */
class Token2WavSection(
    val sampleRate: Int,
    val melDim: Int,
    val samplesPerFrame: Int,
    val framesPerCodec: Int,
    val blockFrames: Int,
    val lookBackwardLayers: Int,
    val lookAheadLayers: Int,
    val hiddenSize: Int,
    val attentionSize: Int,
    val codecLimit: Int,
    val reachFrames: Int,
    val reachSamples: List<Int>,
)

/** A speaker: the text token that announces it to the Talker, and its row in the speakers file. */
class Voice(val bosToken: Int, val row: Int)

/** [file]: float32 `[rows, hidden]`, little-endian; [unconditionalRow] is the one that guidance contrasts with. */
class VoiceSection(
    val file: String,
    val unconditionalRow: Int,
    val default: String,
    val speakers: Map<String, Voice>,
)

/** Sampling defaults; temperature 0 is greedy. */
data class SamplingSection(
    val temperature: Double,
    val topK: Int,
    val topP: Double,
    val repetitionPenalty: Double,
    val maxNewTokens: Int,
)
