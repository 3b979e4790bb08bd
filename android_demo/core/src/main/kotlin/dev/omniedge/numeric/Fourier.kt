package dev.omniedge.numeric

import kotlin.math.PI
import kotlin.math.cos
import kotlin.math.sin

/**
 * The discrete Fourier transform of [size] real values, for any size, in float64; immutable.
 *
 * Source: Cooley and Tukey's algorithm over the prime factors of the size.
 */
class Fourier(val size: Int) {
    private val cosines = DoubleArray(size) { cos(2 * PI * it / size) }
    private val sines = DoubleArray(size) { -sin(2 * PI * it / size) }
    private val factors = primeFactors(size)

    /** The power of each frequency from 0 to Nyquist, `[size / 2 + 1]`, of [input] `[size]`. */
    fun power(input: DoubleArray): DoubleArray {
        require(input.size == size) { "a transform of $size values got ${input.size}" }
        return with(Transform(input)) {
            run(0, 1, 0, size, 0)
            DoubleArray(size / 2 + 1) { real[it] * real[it] + imaginary[it] * imaginary[it] }
        }
    }

    private inner class Transform(private val input: DoubleArray) {
        val real = DoubleArray(size)
        val imaginary = DoubleArray(size)
        private val sumReal = DoubleArray(size)
        private val sumImaginary = DoubleArray(size)

        /** Transforms [count] inputs from [first] on, [stride] apart, into the outputs from [target] on. */
        fun run(first: Int, stride: Int, target: Int, count: Int, level: Int) {
            if (count == 1) {
                real[target] = input[first]
                return
            }
            val radix = factors[level]
            val part = count / radix
            for (residue in 0 until radix) {
                run(first + residue * stride, stride * radix, target + residue * part, part, level + 1)
            }
            join(target, part, radix)
        }

        /** Joins [radix] transforms of [part] values each, which lie one after the other from [target] on. */
        private fun join(target: Int, part: Int, radix: Int) {
            val count = part * radix
            val step = size / count
            for (index in 0 until count) {
                var re = 0.0
                var im = 0.0
                for (residue in 0 until radix) {
                    val source = target + residue * part + index % part
                    val turn = residue * index * step % size
                    re += real[source] * cosines[turn] - imaginary[source] * sines[turn]
                    im += real[source] * sines[turn] + imaginary[source] * cosines[turn]
                }
                sumReal[index] = re
                sumImaginary[index] = im
            }
            sumReal.copyInto(real, target, 0, count)
            sumImaginary.copyInto(imaginary, target, 0, count)
        }
    }

    private fun primeFactors(number: Int): List<Int> = buildList {
        var rest = number
        var factor = 2
        while (rest > 1) {
            while (rest % factor == 0) {
                add(factor)
                rest /= factor
            }
            factor++
        }
    }
}
