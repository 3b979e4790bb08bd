package dev.omniedge.vision

import dev.omniedge.ImageFrame
import dev.omniedge.MediaException
import dev.omniedge.bundle.VisionSection
import dev.omniedge.numeric.Matrix

private const val COLOURS = 3
private const val LEVELS = 256

/** A grid of patches: temporal patches, then rows and columns of one of them. */
data class Grid(val temporal: Int, val height: Int, val width: Int) {
    /** The grid of tokens, each of which merges [size] x [size] patches. */
    fun merged(size: Int): Grid = Grid(temporal, height / size, width / size)

    /** Number of patches. */
    val size: Int get() = temporal * height * width
}

/**
 * What the vision encoder takes.
 *
 * @property patches float32 `[grid.size, values]`, normalised; the patches of one temporal patch are laid out by merge
 *   group, those of one token next to each other; within a patch colour, frame, row, column.
 * @property secondsPerGrid seconds between two temporal patches; 0 for a still picture.
 */
class VisionPatches(val patches: Matrix, val grid: Grid, val secondsPerGrid: Double)

/** Resizing, normalisation and patches by the rules of one manifest, equal to Python's; immutable. */
class ImageProcessor(private val section: VisionSection) {
    /** The normalised value of each byte, float32 `[colours][levels]`. */
    private val normalized = Array(COLOURS) { colour ->
        FloatArray(LEVELS) { level ->
            ((level.toDouble() / (LEVELS - 1) - section.mean[colour]) / section.std[colour]).toFloat()
        }
    }

    /**
     * A still picture: one temporal patch, whose moments are the same.
     *
     * @throws MediaException the pixels do not fill the picture, or its sides are too different.
     */
    fun image(picture: ImageFrame): VisionPatches {
        check(picture)
        val (height, width) =
            section.fit(PictureSize(picture.height, picture.width), section.minPixels, section.maxPixels.toDouble())
        return patches(List(section.temporalPatchSize) { resize(picture, height, width) }, 0.0)
    }

    /**
     * A video's frames; the last one is repeated where a temporal patch is not full.
     *
     * @param frames pictures of one size, evenly spaced in time.
     * @param fps frames per second of [frames].
     * @throws MediaException no frames, frames of several sizes, sides too different, or no positive [fps].
     */
    fun video(frames: List<ImageFrame>, fps: Double): VisionPatches {
        if (frames.isEmpty()) throw MediaException("The video has no frames. Choose another one.")
        frames.forEach(::check)
        val size = frames.map { PictureSize(it.height, it.width) }.distinct().singleOrNull()
            ?: throw MediaException("The frames of a video must have one size. Scale them first.")
        if (!(fps > 0 && fps < Double.POSITIVE_INFINITY)) {
            throw MediaException("A video needs a positive number of frames per second, not $fps. State the real one.")
        }
        val (height, width) = section.fitVideo(frames.size, size)
        val resized = frames.mapTo(ArrayList()) { resize(it, height, width) }
        while (resized.size % section.temporalPatchSize != 0) resized += resized.last()
        return patches(resized, section.temporalPatchSize / fps)
    }

    private fun patches(frames: List<ImageFrame>, secondsPerGrid: Double): VisionPatches {
        val side = section.patchSize
        val moments = section.temporalPatchSize
        val grid = Grid(frames.size / moments, frames.first().height / side, frames.first().width / side)
        val patches = Matrix(grid.size, COLOURS * moments * side * side)
        var at = 0
        for (temporal in 0 until grid.temporal) {
            for ((row, column) in mergeOrder(grid)) {
                for (colour in 0 until COLOURS) {
                    for (moment in 0 until moments) {
                        at = copy(frames[temporal * moments + moment], row * side, column * side, colour, patches, at)
                    }
                }
            }
        }
        return VisionPatches(patches, grid, secondsPerGrid)
    }

    /** Rows and columns of one temporal patch's patches, by merge group. */
    private fun mergeOrder(grid: Grid): Sequence<Pair<Int, Int>> = sequence {
        val merge = section.mergeSize
        for (row in 0 until grid.height step merge) {
            for (column in 0 until grid.width step merge) {
                for (inner in 0 until merge * merge) yield(row + inner / merge to column + inner % merge)
            }
        }
    }

    /** Writes one colour of one patch from [at] on; returns the place behind it. */
    private fun copy(frame: ImageFrame, top: Int, left: Int, colour: Int, target: Matrix, at: Int): Int {
        val table = normalized[colour]
        var next = at
        for (row in top until top + section.patchSize) {
            for (column in left until left + section.patchSize) {
                val level = frame.pixels[(row * frame.width + column) * COLOURS + colour].toInt() and 0xff
                target.values[next++] = table[level]
            }
        }
        return next
    }

    private fun check(picture: ImageFrame) {
        val (width, height) = picture.width to picture.height
        if (width < 1 || height < 1 || picture.pixels.size.toLong() != width.toLong() * height * COLOURS) {
            throw MediaException(
                "${picture.pixels.size} bytes are no picture of $width x $height pixels: it takes three bytes per " +
                    "pixel, RGB, and each side is at least 1.",
            )
        }
    }
}
