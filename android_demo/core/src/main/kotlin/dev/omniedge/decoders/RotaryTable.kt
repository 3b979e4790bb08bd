package dev.omniedge.decoders

import dev.omniedge.bundle.DecoderSection
import java.nio.FloatBuffer
import kotlin.math.cos
import kotlin.math.pow
import kotlin.math.sin

/** Computes the rows of a decoder's cos and sin tables for given position ids; immutable. */
internal class RotaryTable(section: DecoderSection) {
    private val width = section.headDim / 2
    private val inverse = FloatArray(section.rotaryDim / 2) {
        val exponent = 2f * it / section.rotaryDim
        1f / section.ropeTheta.toFloat().toDouble().pow(exponent.toDouble()).toFloat()
    }

    /** The axis (time, height, width) of each rotary pair. */
    private val axis: List<Int> = section.mropeSection.flatMapIndexed { axis, pairs -> List(pairs) { axis } }

    /**
     * Writes the rows of [ids] into [cos] and [sin], both float32 `[capacity, head_dim / 2]`, from row [first] on.
     * Columns past the model's own pairs stay 0.
     */
    fun write(ids: PositionIds, first: Int, cos: FloatBuffer, sin: FloatBuffer) {
        val axes = ids.axes
        for (position in 0 until ids.size) {
            for (pair in inverse.indices) {
                val angle = (axes[axis[pair]][position].toFloat() * inverse[pair]).toDouble()
                val place = (first + position) * width + pair
                cos.put(place, cos(angle).toFloat())
                sin.put(place, sin(angle).toFloat())
            }
        }
    }
}
