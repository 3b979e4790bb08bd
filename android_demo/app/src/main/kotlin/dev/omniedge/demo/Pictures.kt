package dev.omniedge.demo

import android.content.ContentResolver
import android.graphics.Bitmap
import android.graphics.BitmapFactory
import android.graphics.Matrix
import android.media.ExifInterface
import android.net.Uri
import dev.omniedge.ImageFrame
import java.io.IOException

// Longer sides are scaled down while decoding; the model sees fewer pixels than this.
private const val LONGEST_SIDE = 1280

/** Pictures as the model takes them. */
object Pictures {
    /** The picture behind [uri], upright; null: it cannot be read. */
    fun read(resolver: ContentResolver, uri: Uri): ImageFrame? {
        val size = BitmapFactory.Options().apply { inJustDecodeBounds = true }
        resolver.openInputStream(uri).use { BitmapFactory.decodeStream(it, null, size) }
        val options = BitmapFactory.Options().apply { inSampleSize = 1 }
        while (maxOf(size.outWidth, size.outHeight) / options.inSampleSize > LONGEST_SIDE) options.inSampleSize *= 2
        val bitmap = resolver.openInputStream(uri).use { BitmapFactory.decodeStream(it, null, options) } ?: return null
        return frame(turned(bitmap, orientation(resolver, uri)))
    }

    /** The pixels of a bitmap, without its transparency. */
    fun frame(bitmap: Bitmap): ImageFrame {
        val pixels = IntArray(bitmap.width * bitmap.height)
        bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
        val bytes = ByteArray(pixels.size * 3)
        pixels.forEachIndexed { place, pixel ->
            bytes[3 * place] = (pixel shr 16).toByte()
            bytes[3 * place + 1] = (pixel shr 8).toByte()
            bytes[3 * place + 2] = pixel.toByte()
        }
        return ImageFrame(bitmap.width, bitmap.height, bytes)
    }

    private fun turned(bitmap: Bitmap, degrees: Int): Bitmap {
        if (degrees == 0) return bitmap
        val matrix = Matrix().apply { postRotate(degrees.toFloat()) }
        return Bitmap.createBitmap(bitmap, 0, 0, bitmap.width, bitmap.height, matrix, true)
    }

    /** Degrees by which the camera's own mark turns a picture; 0 where it has none. */
    private fun orientation(resolver: ContentResolver, uri: Uri): Int = try {
        val mark = resolver.openInputStream(uri)?.use {
            ExifInterface(it).getAttributeInt(ExifInterface.TAG_ORIENTATION, ExifInterface.ORIENTATION_NORMAL)
        }
        when (mark) {
            ExifInterface.ORIENTATION_ROTATE_90 -> 90
            ExifInterface.ORIENTATION_ROTATE_180 -> 180
            ExifInterface.ORIENTATION_ROTATE_270 -> 270
            else -> 0
        }
    } catch (_: IOException) {
        0
    }
}
