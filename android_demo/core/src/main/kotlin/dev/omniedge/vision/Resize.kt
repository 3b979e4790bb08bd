package dev.omniedge.vision

import dev.omniedge.ImageFrame
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min

// Pillow's weights are integers of 32 bits: 8 for the pixel, 2 for the overshoot of the kernel, the rest for precision.
private const val WEIGHT_BITS = 32 - 8 - 2
private const val HALF = 1L shl (WEIGHT_BITS - 1)
private const val BICUBIC_A = -0.5
private const val BICUBIC_SUPPORT = 2.0
private const val COLOURS = 3

/**
 * Bicubic resizing with antialiasing that gives Pillow's bytes, in Pillow's fixed-point arithmetic.
 *
 * Source: `ImagingResample` in Pillow's libImaging/Resample.c.
 *
 * @return the picture with [height] rows of [width] pixels; [picture] itself where it has that size.
 */
internal fun resize(picture: ImageFrame, height: Int, width: Int): ImageFrame {
    // The order shows in the last bits, since the values between the two passes are bytes. Pillow narrows first, unless
    // (since version 13) the height shrinks by far more than the width.
    val rowsFirst = height < picture.height && picture.height - height > 2 * (picture.width - width)
    return if (rowsFirst) {
        resizeColumns(resizeRows(picture, height), width)
    } else {
        resizeRows(resizeColumns(picture, width), height)
    }
}

/** The picture with [width] pixels in a row. */
private fun resizeColumns(picture: ImageFrame, width: Int): ImageFrame {
    if (picture.width == width) return picture
    val taps = taps(picture.width, width)
    val resized = ByteArray(picture.height * width * COLOURS)
    for (row in 0 until picture.height) {
        for ((column, tap) in taps.withIndex()) {
            val start = (row * picture.width + tap.first) * COLOURS
            for (colour in 0 until COLOURS) {
                resized[(row * width + column) * COLOURS + colour] = tap.apply(picture.pixels, start + colour, COLOURS)
            }
        }
    }
    return ImageFrame(width, picture.height, resized)
}

/** The picture with [height] rows. */
private fun resizeRows(picture: ImageFrame, height: Int): ImageFrame {
    if (picture.height == height) return picture
    val stride = picture.width * COLOURS
    val resized = ByteArray(height * stride)
    for ((row, tap) in taps(picture.height, height).withIndex()) {
        for (column in 0 until stride) {
            resized[row * stride + column] = tap.apply(picture.pixels, tap.first * stride + column, stride)
        }
    }
    return ImageFrame(picture.width, height, resized)
}

/** One output of a direction: it reads the inputs from number [first] on with these [weights], in fixed point. */
private class Tap(val first: Int, private val weights: IntArray) {
    /** The weighted sum of the bytes from [start] on, [stride] apart, rounded half up and clipped. */
    fun apply(pixels: ByteArray, start: Int, stride: Int): Byte {
        var sum = HALF
        var at = start
        for (weight in weights) {
            sum += weight.toLong() * (pixels[at].toInt() and 0xff)
            at += stride
        }
        return (sum shr WEIGHT_BITS).coerceIn(0, 255).toByte()
    }
}

private fun taps(size: Int, target: Int): List<Tap> {
    val scale = size.toDouble() / target
    val stretch = max(scale, 1.0)
    val reach = BICUBIC_SUPPORT * stretch
    return List(target) { output ->
        val centre = (output + 0.5) * scale
        val first = max((centre - reach + 0.5).toInt(), 0)
        val end = min((centre + reach + 0.5).toInt(), size)
        val weights = DoubleArray(end - first) { bicubic((first + it - centre + 0.5) / stretch) }
        val sum = weights.fold(0.0, Double::plus)
        Tap(first, IntArray(weights.size) { fixed(weights[it] / sum) })
    }
}

/** Rounded half away from zero, as a C cast of x + 0.5 or x - 0.5 does. */
private fun fixed(weight: Double): Int = (weight * (1 shl WEIGHT_BITS) + if (weight < 0) -0.5 else 0.5).toInt()

/** The cubic convolution kernel (Keys, 1981) with a = -0.5. */
private fun bicubic(distance: Double): Double {
    val x = abs(distance)
    return when {
        x < 1 -> ((BICUBIC_A + 2) * x - (BICUBIC_A + 3)) * x * x + 1
        x < BICUBIC_SUPPORT -> (((x - 5) * x + 8) * x - 4) * BICUBIC_A
        else -> 0.0
    }
}
