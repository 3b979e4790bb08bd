package dev.omniedge.vision

import dev.omniedge.MediaException
import dev.omniedge.UsageException
import dev.omniedge.bundle.VisionSection
import kotlin.math.ceil
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sqrt

private const val MOST_RATIO = 200

// A long video's frames shrink no further than to this multiple of the smallest budget (qwen-omni-utils).
private const val VIDEO_HEADROOM = 1.05

// What a picture and a video may take of a context: one part in so many.
private const val PICTURE_PART = 4
private const val VIDEO_PART = 2

/** Rows and columns of a picture, in pixels. */
data class PictureSize(val height: Int, val width: Int)

/**
 * These sizes with budgets that leave room in a context of [positions] positions: a picture is scaled down to a quarter
 * of the context, a video to a half.
 *
 * @param largest pixels of a picture, instead of the quarter; at most the bundle's own budget counts.
 * @throws UsageException [largest] is less than the smallest picture has.
 */
internal fun VisionSection.within(positions: Int, largest: Int?): VisionSection {
    if (largest != null && largest < minPixels) {
        throw UsageException("A picture has $minPixels pixels at least; maxPixels $largest is too small.")
    }
    val perToken = (patchSize * mergeSize).toLong() * (patchSize * mergeSize)
    val picture = largest?.toLong() ?: (positions * perToken / PICTURE_PART)
    return copy(
        maxPixels = max(minPixels.toLong(), min(maxPixels.toLong(), picture)).toInt(),
        videoTotalPixels = min(videoTotalPixels.toLong(), positions * perToken / VIDEO_PART).toInt(),
    )
}

/**
 * The size a picture is brought to: sides that are whole merge groups, pixels within the bounds, ratio kept.
 *
 * Source: `smart_resize` of transformers' Qwen2-VL image processor, its rounding (half to even) included.
 *
 * @throws MediaException one side is more than 200 times the other.
 */
internal fun VisionSection.fit(size: PictureSize, least: Int, most: Double): PictureSize {
    val (height, width) = size
    if (max(height, width) > MOST_RATIO.toLong() * min(height, width)) {
        throw MediaException(
            "A picture of $width x $height pixels is too long and thin: one side may be at most $MOST_RATIO times " +
                "the other. Crop it.",
        )
    }
    val factor = patchSize * mergeSize
    val area = height.toDouble() * width
    val rows = Math.rint(height.toDouble() / factor).toInt() * factor
    val columns = Math.rint(width.toDouble() / factor).toInt() * factor
    val pixels = rows.toDouble() * columns
    return when {
        pixels > most -> sqrt(area / most).let { PictureSize(down(height / it, factor), down(width / it, factor)) }
        pixels < least -> sqrt(least / area).let { PictureSize(up(height * it, factor), up(width * it, factor)) }
        else -> PictureSize(rows, columns)
    }
}

/**
 * The size that each of [frames] frames of a video is brought to (source: `fetch_video`, qwen-omni-utils).
 *
 * @throws MediaException one side is more than 200 times the other.
 */
internal fun VisionSection.fitVideo(frames: Int, size: PictureSize): PictureSize {
    val share = videoTotalPixels.toDouble() / frames * temporalPatchSize
    val most = max(min(videoMaxPixels.toDouble(), share), floor(videoMinPixels * VIDEO_HEADROOM))
    return fit(size, videoMinPixels, most)
}

private fun down(side: Double, factor: Int): Int = max(factor, floor(side / factor).toInt() * factor)

private fun up(side: Double, factor: Int): Int = ceil(side / factor).toInt() * factor
