package dev.omniedge.vocoder

import dev.omniedge.UsageException
import kotlin.math.PI
import kotlin.math.cos

// Far beyond any use: an evaluation keeps tables and state of its own, and a mel grows with the guidance.
private const val MOST_EVALUATIONS = 1000
private const val MOST_GUIDANCE = 100.0
private const val THIRD = (1.0 / 3).toFloat()
private const val TWO_THIRDS = (2.0 / 3).toFloat()

/** A method that integrates the flow from noise (t = 0) to mel (t = 1); [evaluationsPerStep] velocities make a step. */
enum class SolverMethod(val evaluationsPerStep: Int) {
    EULER(1),

    /** Second-order Adams-Bashforth, at the same cost. */
    AB2(1),

    /** The reference's 3/8 rule. */
    RK4(4),
}

/**
 * The method that samples the DiT, and its parameters.
 *
 * @property evaluations evaluations of the velocity per block; a multiple of 4 for [SolverMethod.RK4].
 * @property guidance weight g of `v + g (v - v_unconditional)`. 0 leaves the unconditional row out: half the cost.
 * @property sway moves time points towards the noise (negative) or the mel (positive), in -1 to 1.75. The reference uses
 *   -1 (sway sampling: F5-TTS, arXiv 2410.06885).
 * @throws UsageException a value out of its range.
 */
data class SolverSettings(
    val method: SolverMethod = SolverMethod.EULER,
    val evaluations: Int = 4,
    val guidance: Double = 0.5,
    val sway: Double = -1.0,
) {
    init {
        val perStep = method.evaluationsPerStep
        if (evaluations !in 1..MOST_EVALUATIONS || evaluations % perStep != 0) {
            throw UsageException(
                "$evaluations evaluations are not whole steps of $method; " +
                    "choose a multiple of $perStep from $perStep to $MOST_EVALUATIONS.",
            )
        }
        if (guidance !in 0.0..MOST_GUIDANCE) {
            throw UsageException("The guidance is $guidance; it must be from 0 (off) to $MOST_GUIDANCE.")
        }
        if (sway !in -1.0..2 / (PI - 2)) {
            throw UsageException("The sway is $sway; it must be from -1 to 1.75, or time would run backwards.")
        }
    }

    /** Rows of one run of the DiT: 2 with guidance (conditional, unconditional), 1 without. */
    val rows: Int get() = if (guidance > 0) 2 else 1

    /** The time points between steps, from 0 to 1; float32 arithmetic, whose last bit is visible in the mel. */
    private val points: FloatArray = run {
        val count = evaluations / method.evaluationsPerStep
        val width = (1.0 / count).toFloat().toDouble()
        FloatArray(count + 1) { index ->
            // Counted from both ends, rounded once, as torch.linspace does.
            val even = (if (index < (count + 1) / 2) index * width else 1 - (count - index) * width).toFloat()
            val cosine = cos(((PI / 2).toFloat() * even).toDouble()).toFloat()
            even + sway.toFloat() * (cosine - 1f + even)
        }
    }

    /** The widths of the steps in time, float32 `[steps]`. */
    internal val widths: FloatArray = FloatArray(points.size - 1) { points[it + 1] - points[it] }

    /** The time of each evaluation, float32 `[evaluations]`. */
    internal val times: FloatArray = FloatArray(evaluations) { evaluation ->
        val step = evaluation / method.evaluationsPerStep
        when (evaluation % method.evaluationsPerStep) {
            0 -> points[step]
            1 -> points[step] + widths[step] * THIRD
            2 -> points[step] + widths[step] * TWO_THIRDS
            else -> points[step + 1]
        }
    }
}

/**
 * Progress of one block on its way from noise (t = 0) to mel (t = 1); immutable.
 *
 * @property x float32 `[frames * mel_dim]`, the solution at the start of the current step.
 * @property evaluation velocities that [advance] has taken.
 * @property velocities earlier velocities that the method still needs.
 */
internal class SolverState(
    val x: FloatArray,
    private val evaluation: Int = 0,
    private val velocities: List<FloatArray> = emptyList(),
) {
    /** The argument of the next velocity, float32 of the shape of [x]. */
    fun evaluationPoint(settings: SolverSettings): FloatArray {
        if (settings.method != SolverMethod.RK4 || velocities.isEmpty()) return x
        val width = settings.widths[evaluation / settings.method.evaluationsPerStep]
        return FloatArray(x.size) { i ->
            val first = velocities[0][i]
            x[i] + when (velocities.size) {
                1 -> width * first * THIRD
                2 -> width * (velocities[1][i] - first * THIRD)
                else -> width * (first - velocities[1][i] + velocities[2][i])
            }
        }
    }

    /** The state after one more [velocity], that at [evaluationPoint]. */
    fun advance(velocity: FloatArray, settings: SolverSettings): SolverState = when (settings.method) {
        SolverMethod.EULER -> next(settings.widths[evaluation]) { velocity[it] }
        SolverMethod.AB2 -> adamsBashforth(velocity, settings.widths)
        SolverMethod.RK4 -> rungeKutta(velocity, settings)
    }

    /** Two-step Adams-Bashforth on unequal steps; the first step is Euler's. */
    private fun adamsBashforth(velocity: FloatArray, widths: FloatArray): SolverState {
        val width = widths[evaluation]
        val before = velocities.firstOrNull() ?: return next(width, listOf(velocity)) { velocity[it] }
        val weight = width / (2 * widths[evaluation - 1])
        return next(width, listOf(velocity)) { velocity[it] + weight * (velocity[it] - before[it]) }
    }

    /** The 3/8 rule, in the order of operations of the reference. */
    private fun rungeKutta(velocity: FloatArray, settings: SolverSettings): SolverState {
        val perStep = settings.method.evaluationsPerStep
        if (velocities.size < perStep - 1) return SolverState(x, evaluation + 1, velocities + listOf(velocity))
        val (first, second, third) = velocities
        val width = settings.widths[evaluation / perStep]
        val end = FloatArray(x.size) { x[it] + (first[it] + 3 * (second[it] + third[it]) + velocity[it]) * width / 8 }
        return SolverState(end, evaluation + 1)
    }

    private inline fun next(width: Float, kept: List<FloatArray> = emptyList(), slope: (Int) -> Float) =
        SolverState(FloatArray(x.size) { x[it] + width * slope(it) }, evaluation + 1, kept)
}
