package dev.omniedge.numeric

import kotlin.math.exp
import kotlin.math.ln1p

/**
 * Draws float32 values of N(0, 1) by the ziggurat method, in the order in which `numpy.random.Generator` draws them.
 *
 * Source: Marsaglia and Tsang, "The Ziggurat Method for Generating Random Variables" (2000).
 */
object Normal {
    private const val LAYERS = 256
    private const val MANTISSA = 1 shl 23

    // Where the tail begins, and the area of each layer, for 256 layers.
    private const val TAIL = 3.6541528853610088
    private const val AREA = 0.00492867323399

    /** Below it, a draw lies inside of its layer's rectangle: uint32 `[layers]`. */
    private val inside = IntArray(LAYERS)

    /** The width of each layer per unit of the mantissa. */
    private val width = FloatArray(LAYERS)

    /** The density at the edge of each layer. */
    private val density = FloatArray(LAYERS)

    init {
        var edge = TAIL
        val base = AREA / gauss(edge)
        inside[0] = (edge / base * MANTISSA).toInt()
        inside[1] = 0
        width[0] = (base / MANTISSA).toFloat()
        width[LAYERS - 1] = (edge / MANTISSA).toFloat()
        density[0] = 1f
        density[LAYERS - 1] = gauss(edge).toFloat()
        for (layer in LAYERS - 2 downTo 1) {
            val before = edge
            edge = StrictMath.sqrt(-2 * StrictMath.log(AREA / edge + gauss(edge)))
            inside[layer + 1] = (edge / before * MANTISSA).toInt()
            density[layer] = gauss(edge).toFloat()
            width[layer] = (edge / MANTISSA).toFloat()
        }
    }

    private fun gauss(x: Double): Double = StrictMath.exp(-0.5 * x * x)

    /** The next value. */
    fun next(random: Philox): Float {
        while (true) {
            val bits = random.nextInt()
            val layer = bits and 0xff
            val magnitude = (bits ushr 9) and (MANTISSA - 1)
            val x = magnitude * width[layer] * if (bits and 0x100 != 0) -1 else 1
            if (magnitude < inside[layer]) return x
            if (layer == 0) return tail(random, negative = magnitude and 0x100 != 0)
            val height = (density[layer - 1] - density[layer]) * random.nextFloat() + density[layer]
            if (height < exp(-0.5 * x * x)) return x
        }
    }

    private fun tail(random: Philox, negative: Boolean): Float {
        while (true) {
            val beyond = -(1 / TAIL).toFloat() * ln1p(-random.nextFloat())
            val height = -ln1p(-random.nextFloat())
            if (height + height > beyond * beyond) {
                val x = TAIL.toFloat() + beyond
                return if (negative) -x else x
            }
        }
    }
}
