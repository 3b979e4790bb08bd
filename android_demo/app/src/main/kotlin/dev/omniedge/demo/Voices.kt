package dev.omniedge.demo

import android.content.Context
import dev.omniedge.live.FRAME_SAMPLES
import dev.omniedge.live.VoiceDetector
import dev.omniedge.live.VoiceState
import java.io.File
import java.io.FileNotFoundException

private const val ASSET = "voice_detector.onnx"

// Probabilities from which a frame is speech, and down to which one behind speech is.
private const val ENTER = 0.5f
private const val LEAVE = 0.35f

/** Tells voices from other sounds by Silero's model: pieces of the microphone's sound, cut into frames. */
class Voices(private val detector: VoiceDetector) {
    private val state = VoiceState()
    private var waiting = FloatArray(0)
    private var speech = false

    /** Whether a frame that the next piece completes holds speech; as before where it completes none. */
    fun step(piece: FloatArray): Boolean {
        waiting += piece
        val frames = waiting.size / FRAME_SAMPLES
        val probabilities = List(frames) {
            detector.step(waiting.copyOfRange(it * FRAME_SAMPLES, (it + 1) * FRAME_SAMPLES), state)
        }
        waiting = waiting.copyOfRange(frames * FRAME_SAMPLES, waiting.size)
        if (frames > 0) speech = probabilities.max() >= if (speech) LEAVE else ENTER
        return speech
    }

    companion object {
        /** The model that the APK holds; null: it holds none. ONNX Runtime loads files, so it is copied. */
        fun load(context: Context): VoiceDetector? {
            val file = File(context.filesDir, ASSET)
            try {
                context.assets.open(ASSET).use { from -> file.outputStream().use(from::copyTo) }
            } catch (missing: FileNotFoundException) {
                return null
            }
            return VoiceDetector(file)
        }
    }
}
