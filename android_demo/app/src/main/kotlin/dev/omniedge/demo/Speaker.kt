package dev.omniedge.demo

import android.media.AudioAttributes
import android.media.AudioFormat
import android.media.AudioTrack
import java.util.concurrent.LinkedBlockingQueue
import kotlin.concurrent.thread

/**
 * Plays speech chunk by chunk, on a thread of its own; [stop] is heard at once.
 *
 * @param rate samples per second.
 */
class Speaker(rate: Int) : AutoCloseable {
    private val format = AudioFormat.Builder()
        .setEncoding(AudioFormat.ENCODING_PCM_FLOAT)
        .setSampleRate(rate)
        .setChannelMask(AudioFormat.CHANNEL_OUT_MONO)
        .build()
    private val track = AudioTrack.Builder()
        .setAudioAttributes(
            AudioAttributes.Builder()
                .setUsage(AudioAttributes.USAGE_MEDIA)
                .setContentType(AudioAttributes.CONTENT_TYPE_SPEECH)
                .build(),
        )
        .setAudioFormat(format)
        .setTransferMode(AudioTrack.MODE_STREAM)
        .build()

    private sealed interface Item
    private class Chunk(val samples: FloatArray) : Item
    private object ReplyEnd : Item
    private object Close : Item

    private val queue = LinkedBlockingQueue<Item>()

    // The reply that may be heard; a writer that belongs to an earlier one stops.
    @Volatile
    private var reply = 0

    private val writer = thread(name = "speaker") { write() }

    /** Plays float32 samples behind what waits. */
    fun play(samples: FloatArray) = queue.put(Chunk(samples))

    /** The reply is complete: what the hardware still holds is played to its end. */
    fun finish() = queue.put(ReplyEnd)

    /** Drops everything that was not heard yet. */
    fun stop() {
        reply++
        queue.clear()
        track.pause()
        track.flush()
    }

    override fun close() {
        stop()
        queue.put(Close)
        writer.join()
        track.release()
    }

    private fun write() {
        while (true) {
            when (val item = queue.take()) {
                is Chunk -> write(item.samples)
                ReplyEnd -> track.stop()
                Close -> return
            }
        }
    }

    private fun write(samples: FloatArray) {
        val mine = reply
        if (track.playState != AudioTrack.PLAYSTATE_PLAYING) track.play()
        var start = 0
        while (start < samples.size && mine == reply) {
            val count = track.write(samples, start, samples.size - start, AudioTrack.WRITE_BLOCKING)
            // A pause from outside ends the write early; an error ends the chunk.
            if (count <= 0) return
            start += count
        }
    }
}
