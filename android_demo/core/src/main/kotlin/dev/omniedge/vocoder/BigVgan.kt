package dev.omniedge.vocoder

import dev.omniedge.backend.FlagTensor
import dev.omniedge.backend.FloatTensor
import dev.omniedge.backend.Graph
import dev.omniedge.backend.LongTensor
import dev.omniedge.backend.Tensor
import dev.omniedge.bundle.Token2WavSection
import dev.omniedge.numeric.Matrix
import kotlin.math.ceil

// The share of the receptive field that one DiT block of look-ahead covers: samples equal those of the whole mel to 1e-5.
private const val REACH = 0.6

// Most mel frames of one run of the graph; it bounds the memory, about 0.5 MB per frame.
private const val RUN_FRAMES = 500
private const val STATE = "state."

/** The state of one utterance in BigVGAN: the samples that each filter keeps; empty at the start. */
internal class BigVganState {
    var filters: Map<String, FloatTensor> = emptyMap()

    /** Time spent in the graph, in seconds. */
    var seconds = 0.0
}

/** The `bigvgan` graph: mel to samples as a stream; immutable. */
internal class BigVgan(private val graph: Graph, private val section: Token2WavSection) {
    private val states = graph.inputs.filter { it.startsWith(STATE) }
    private val startStates: Map<String, Tensor> = states.associateWith { role ->
        val shape = graph.inputShape(role).map { maxOf(it, 0) }.toLongArray()
        FloatTensor(FloatArray(shape.fold(1L, Long::times).toInt()), *shape)
    }

    /** Samples that survive each level; the last level sees few, so a smaller share saves nothing there. */
    private val keep = LongArray(section.reachSamples.size) { level ->
        val samples = section.reachSamples[level]
        if (level == section.reachSamples.lastIndex) samples.toLong() else ceil(REACH * samples).toLong()
    }

    /** Mel frames that the network looks ahead. */
    val lookAheadFrames: Int = ceil(REACH * section.reachFrames).toInt()

    /**
     * Computes the samples of the finished frames of [mel].
     *
     * @return float32 `[frames * samples_per_frame]` in -1 to 1.
     */
    fun step(mel: MelBlock, state: BigVganState): FloatArray {
        val began = System.nanoTime()
        val final = mel.final
        val all = if (mel.end) final else Matrix.concatenate(listOf(final, mel.lookAhead), section.melDim)
        val samples = FloatArray(final.rows * section.samplesPerFrame)
        for (start in 0 until final.rows step RUN_FRAMES) {
            val stop = minOf(start + RUN_FRAMES, final.rows)
            val seen = minOf(stop + lookAheadFrames, all.rows)
            val piece = run(all.rows(start, seen), seen - stop, state)
            piece.copyInto(samples, start * section.samplesPerFrame)
        }
        state.seconds += (System.nanoTime() - began) / 1e9
        return samples
    }

    fun close() = graph.close()

    /** The samples of [mel] without its last [ahead] frames. Without such frames the utterance ends here. */
    private fun run(mel: Matrix, ahead: Int, state: BigVganState): FloatArray {
        val begin = state.filters.isEmpty()
        val feeds = HashMap<String, Tensor>(if (begin) startStates else state.filters)
        feeds["mel"] = FloatTensor(mel.transposed().values, 1, section.melDim.toLong(), mel.rows.toLong())
        feeds["ahead"] = LongTensor(longArrayOf(ahead.toLong()), 1)
        feeds["keep"] = LongTensor(keep, keep.size.toLong())
        feeds["begin"] = FlagTensor(begin)
        val results = graph.run(feeds, listOf("samples") + states.map { "next_$it" })
        state.filters = states.zip(results.drop(1)).toMap()
        return results.first().values
    }
}
