package dev.omniedge.conversation

import dev.omniedge.UsageException
import dev.omniedge.bundle.Manifest
import dev.omniedge.bundle.SamplingSection
import dev.omniedge.decoders.Sampling
import dev.omniedge.vocoder.ChunkSchedule
import dev.omniedge.vocoder.SolverSettings
import kotlin.random.Random

/** Positions that a session reserves by default. */
private const val DEFAULT_CONTEXT = 8192

/**
 * How a conversation answers. Null takes the default of the bundle.
 *
 * @property voice name of the speaker.
 * @property system the system prompt. Null: the one that speech requires, or without speech the checkpoint's default.
 *   "": no system turn.
 * @property context positions that the conversation may use: one for each text token, 25 for each second of sound, one
 *   for each 28 x 28 pixels. Null: 8192, or the model's limit where that is lower.
 * @property seed makes everything reproducible. Null: a random seed.
 * @property speech whether replies are spoken. Null: where the bundle can speak.
 * @property sampling how text tokens are drawn.
 * @property talkerSampling how codec tokens are drawn.
 * @property solver solver and guidance of the vocoder.
 * @property chunks how the speech is cut into chunks.
 * @property maxPixels pixels of the largest picture; a larger one is scaled down. Null: a quarter of the context.
 * @throws UsageException a seed below 0.
 */
data class SessionSettings(
    val voice: String? = null,
    val system: String? = null,
    val context: Int? = null,
    val seed: Long? = null,
    val speech: Boolean? = null,
    val sampling: Sampling = Sampling(),
    val talkerSampling: Sampling = Sampling(),
    val solver: SolverSettings = SolverSettings(),
    val chunks: ChunkSchedule = ChunkSchedule(),
    val maxPixels: Int? = null,
) {
    init {
        if (seed != null && seed < 0) throw UsageException("The seed is $seed; it must be 0 or more.")
    }

    /**
     * These settings with the defaults of a bundle in place of every null.
     *
     * @throws UsageException the bundle cannot do what is asked.
     */
    internal fun complete(manifest: Manifest): CompleteSettings {
        val limit = manifest.thinker.maxPositions
        val context = context ?: minOf(DEFAULT_CONTEXT, limit)
        if (context !in 1..limit) {
            throw UsageException("The context is $context; this model holds from 1 to $limit positions.")
        }
        val speech = speech ?: (manifest.talker != null)
        if (speech && manifest.talker == null) {
            throw UsageException("This bundle has no speech: it was exported with --text-only. Ask without speech.")
        }
        if (voice != null && manifest.voices == null) {
            throw UsageException("This bundle has no voices: it was exported with --text-only. Leave the voice out.")
        }
        val defaultSystem = if (speech) manifest.text.speechSystem else manifest.text.defaultSystem
        return CompleteSettings(
            voice = manifest.voices?.let { manifest.checkVoice(voice ?: it.default) },
            system = system ?: defaultSystem,
            context = context,
            seed = seed ?: Random.nextLong(Long.MAX_VALUE),
            sampling = sampling.over(manifest.sampling),
            talkerSampling = manifest.talkerSampling?.takeIf { speech }?.let(talkerSampling::over),
            solver = solver,
            chunks = chunks,
            maxPixels = maxPixels,
        )
    }
}

/** The settings of one conversation on one bundle, nothing left open; see [SessionSettings]. */
internal class CompleteSettings(
    val voice: String?,
    val system: String,
    val context: Int,
    val seed: Long,
    val sampling: SamplingSection,
    val talkerSampling: SamplingSection?,
    val solver: SolverSettings,
    val chunks: ChunkSchedule,
    val maxPixels: Int?,
) {
    /** Settings that start a conversation equal to this one, with another speaker. */
    fun reusable(voice: String?) = SessionSettings(
        voice = voice,
        system = system,
        context = context,
        seed = seed,
        speech = talkerSampling != null,
        sampling = sampling.rules(),
        talkerSampling = talkerSampling?.rules() ?: Sampling(),
        solver = solver,
        chunks = chunks,
        maxPixels = maxPixels,
    )
}

private fun SamplingSection.rules() = Sampling(temperature, topK, topP, repetitionPenalty)

/**
 * [name], where the bundle has a speaker of that name.
 *
 * @throws UsageException it has none.
 */
internal fun Manifest.checkVoice(name: String): String {
    val speakers = voices?.speakers?.keys.orEmpty()
    if (name !in speakers) {
        throw UsageException("There is no voice '$name'; this bundle has ${speakers.joinToString().ifEmpty { "none" }}.")
    }
    return name
}
