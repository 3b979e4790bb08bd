package dev.omniedge.demo

import android.media.AudioFormat
import android.media.AudioRecord
import android.media.MediaRecorder
import kotlin.concurrent.thread

/** Samples per second of the microphone. */
const val MICROPHONE_RATE = 16_000

// A tenth of a second for each piece, and room for a second where the app is late.
private const val PIECE_SAMPLES = MICROPHONE_RATE / 10
private const val BUFFER_BYTES = MICROPHONE_RATE * Float.SIZE_BYTES

/**
 * Records float32 samples until it is closed; the permission must have been granted.
 *
 * @param echo the speaker may play meanwhile: the phone's echo canceller is asked for.
 * @param onPiece called with every piece, on a thread of its own.
 * @param onLost called on that thread when the system takes the microphone away.
 * @throws IllegalStateException another app holds the microphone.
 */
class Microphone(
    echo: Boolean,
    private val onPiece: (FloatArray) -> Unit,
    private val onLost: () -> Unit,
) : AutoCloseable {
    private val record = AudioRecord.Builder()
        .setAudioSource(
            if (echo) MediaRecorder.AudioSource.VOICE_COMMUNICATION else MediaRecorder.AudioSource.VOICE_RECOGNITION,
        )
        .setAudioFormat(
            AudioFormat.Builder()
                .setEncoding(AudioFormat.ENCODING_PCM_FLOAT)
                .setSampleRate(MICROPHONE_RATE)
                .setChannelMask(AudioFormat.CHANNEL_IN_MONO)
                .build(),
        )
        .setBufferSizeInBytes(BUFFER_BYTES)
        .build()

    @Volatile
    private var open = true

    private val reader: Thread

    init {
        try {
            check(record.state == AudioRecord.STATE_INITIALIZED) { "The microphone cannot be opened." }
            record.startRecording()
            check(record.recordingState == AudioRecord.RECORDSTATE_RECORDING) { "Another app holds the microphone." }
        } catch (error: Throwable) {
            record.release()
            throw error
        }
        reader = thread(name = "microphone") { read() }
    }

    override fun close() {
        open = false
        reader.join()
        record.stop()
        record.release()
    }

    private fun read() {
        val piece = FloatArray(PIECE_SAMPLES)
        while (open) {
            val count = record.read(piece, 0, piece.size, AudioRecord.READ_BLOCKING)
            if (count < 0) break
            if (count > 0) onPiece(piece.copyOf(count))
        }
        if (open) onLost()
    }
}
