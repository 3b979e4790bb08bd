package dev.omniedge

/** What the user says and shows; see [dev.omniedge.conversation.Session.push]. */
sealed interface Media

/**
 * A piece of a live sound.
 *
 * @property samples float32 `[n]` in -1 to 1, mono.
 * @property rate samples per second; any rate, resampled as it comes.
 * @property end true with the last piece: the sound is complete.
 */
class PcmBlock(val samples: FloatArray, val rate: Int, val end: Boolean = false) : Media

/**
 * A sound that is known whole; it is normalised by its loudest mel value.
 *
 * @property samples float32 `[n]` in -1 to 1, mono.
 * @property rate samples per second.
 */
class AudioClip(val samples: FloatArray, val rate: Int) : Media

/**
 * A picture.
 *
 * @property width pixels in a row.
 * @property height rows.
 * @property pixels uint8 `[height, width, 3]`, RGB.
 */
class ImageFrame(val width: Int, val height: Int, val pixels: ByteArray) : Media

/**
 * A video: its sampled frames and, where it has one, its sound.
 *
 * @property frames pictures of one size, evenly spaced in time.
 * @property fps frames per second of [frames].
 * @property sound the sound that goes with it; null for a silent video.
 */
class VideoClip(val frames: List<ImageFrame>, val fps: Double, val sound: AudioClip? = null) : Media

/** 16-bit samples, as a microphone gives them, as float32 in -1 to 1. */
fun ShortArray.toSamples(): FloatArray = FloatArray(size) { this[it] / 32768f }

/** What a reply is made of; see [dev.omniedge.conversation.Session.reply]. */
sealed interface Event

/**
 * The next piece of the reply's text.
 *
 * @property text often empty: a character can be split over several tokens.
 * @property tokenIds the tokens behind it.
 */
class TextDelta(val text: String, val tokenIds: List<Int> = emptyList()) : Event

/**
 * The next piece of the reply's speech, to be played right after the one before.
 *
 * @property samples float32 `[n]` in -1 to 1, mono.
 * @property rate samples per second.
 * @property start index of the first sample in the reply.
 */
class AudioChunk(val samples: FloatArray, val rate: Int, val start: Int) : Event

/**
 * The reply is complete.
 *
 * @property text all of it.
 * @property tokenIds the generated text tokens, the closing one included where there was one.
 * @property codecTokens the spoken codec tokens, stop tokens excluded.
 * @property promptTokens positions of the context that preceded the reply.
 */
class TurnDone(
    val text: String,
    val tokenIds: List<Int>,
    val codecTokens: List<Int>,
    val promptTokens: Int,
    val finishReason: FinishReason,
    val metrics: Metrics,
) : Event

/** Why a reply ended. */
enum class FinishReason {
    /** The model closed the turn. */
    STOP,

    /** The limit of text tokens was reached. */
    LENGTH,

    /** The context has no room for another token. */
    CONTEXT_FULL,

    /** The caller cancelled it. */
    CANCELLED,
}

/**
 * Where the time of one reply went, in seconds.
 *
 * @property ttft from the end of the input to the first text token.
 * @property ttfa from the end of the input to the first playable sample; null without speech.
 * @property prefill the prompt's remaining positions in the Thinker.
 * @property decode the Thinker's steps.
 * @property talker the Talker's steps.
 * @property dit mel frames from codec tokens.
 * @property bigvgan samples from mel frames.
 * @property total the whole reply, the collector's work included.
 * @property audio length of the speech.
 */
data class Metrics(
    val ttft: Double,
    val ttfa: Double?,
    val prefill: Double,
    val decode: Double,
    val talker: Double,
    val dit: Double,
    val bigvgan: Double,
    val total: Double,
    val audio: Double,
) {
    /** Seconds of computing per second of speech; below 1 is faster than real time. Null without speech. */
    val rtf: Double? get() = if (audio > 0) (prefill + decode + talker + dit + bigvgan) / audio else null
}
