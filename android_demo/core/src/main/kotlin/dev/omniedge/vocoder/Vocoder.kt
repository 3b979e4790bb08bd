package dev.omniedge.vocoder

import dev.omniedge.BundleException
import dev.omniedge.UsageException
import dev.omniedge.backend.GraphLoader
import dev.omniedge.bundle.Token2WavSection
import dev.omniedge.bundle.VoiceSection
import dev.omniedge.numeric.Matrix
import java.io.IOException
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** The state of one utterance. */
class VocoderState internal constructor(internal val dit: DitState) {
    internal val bigvgan = BigVganState()

    /** Time spent in the DiT since the start of the utterance, in seconds. */
    val ditSeconds: Double get() = dit.seconds

    /** Time spent in BigVGAN since the start of the utterance, in seconds. */
    val bigvganSeconds: Double get() = bigvgan.seconds
}

/** token2wav: codec tokens to samples. Its states belong to the caller. */
class Vocoder private constructor(
    private val dit: Dit,
    private val bigvgan: BigVgan,
    private val tables: TimeTableCache,
    private val section: Token2WavSection,
    private val voices: VoiceSection,
    private val speakers: Matrix,
) : AutoCloseable {
    /** Samples per second. */
    val sampleRate: Int get() = section.sampleRate

    /**
     * The state at the start of an utterance.
     *
     * @param voice name of the speaker.
     * @param seed seed of the noise. The same seed and codec tokens give the same samples.
     * @throws UsageException an unknown voice.
     */
    fun state(voice: String, seed: LongArray, solver: SolverSettings, schedule: ChunkSchedule): VocoderState {
        val speaker = voices.speakers[voice]
            ?: throw UsageException("There is no voice '$voice'; the voices are ${voices.speakers.keys.joinToString()}.")
        val rows = listOf(speaker.row, voices.unconditionalRow).take(solver.rows)
        val noise = Noise(*seed, values = section.blockFrames * section.melDim)
        val rowsOfSpeaker = Matrix.concatenate(rows.map { speakers.rows(it, it + 1) }, speakers.columns)
        return VocoderState(DitState(rowsOfSpeaker, tables.tables(solver), solver, schedule, noise))
    }

    /**
     * Takes codec tokens and computes all chunks that they complete.
     *
     * @param codec the next codec tokens of the reply, without control tokens; may be empty.
     * @param end true when no codec token follows, which finishes the utterance.
     * @return the samples of these chunks, float32 `[n]` in -1 to 1, or null when more codec tokens are needed.
     * @throws UsageException a codec token without an embedding, or tokens after the end.
     */
    fun step(codec: List<Int>, state: VocoderState, end: Boolean = false): FloatArray? {
        var samples: FloatArray? = null
        var mel = dit.step(codec, state.dit, end)
        while (mel != null) {
            val piece = bigvgan.step(mel, state.bigvgan)
            samples = if (samples == null) piece else samples + piece
            mel = dit.step(emptyList(), state.dit)
        }
        return samples
    }

    override fun close() {
        dit.close()
        bigvgan.close()
    }

    companion object {
        /**
         * Loads the vocoder of a bundle.
         *
         * @param tables the time tables, which outlive a vocoder that is loaded again.
         * @throws BundleException a text-only bundle, or a damaged speakers file.
         */
        fun load(loader: GraphLoader, tables: TimeTableCache): Vocoder {
            val bundle = loader.bundle
            val section = bundle.manifest.token2wav
            val voices = bundle.manifest.voices
            if (section == null || voices == null) {
                throw BundleException("The bundle ${bundle.folder} has no vocoder. Export it again without --text-only.")
            }
            val bytes = try {
                bundle.file(voices.file).readBytes()
            } catch (error: IOException) {
                throw BundleException("${voices.file} cannot be read (${error.message}). Copy the bundle again.", error)
            }
            val rows = 1 + maxOf(voices.unconditionalRow, voices.speakers.values.maxOf { it.row })
            if (bytes.size % (rows * Float.SIZE_BYTES) != 0) {
                throw BundleException("${voices.file} does not hold $rows rows. Export the bundle again.")
            }
            val values = FloatArray(bytes.size / Float.SIZE_BYTES)
            ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values)
            val bigvgan = BigVgan(loader.load("bigvgan"), section)
            val ahead = (bigvgan.lookAheadFrames + section.blockFrames - 1) / section.blockFrames
            val dit = Dit(loader.load("dit"), section, ahead)
            return Vocoder(dit, bigvgan, tables, section, voices, Matrix(rows, values.size / rows, values))
        }
    }
}
