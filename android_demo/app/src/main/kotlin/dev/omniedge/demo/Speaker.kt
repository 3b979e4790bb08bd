package dev.omniedge.demo

import android.media.AudioAttributes
import android.media.AudioFormat
import android.media.AudioTrack
import java.util.concurrent.LinkedBlockingQueue
import kotlin.concurrent.thread

/**
 * Plays speech chunk by chunk, on a thread of its own; [stop] is heard at once. Replies are numbered, so that a chunk
 * which comes late from an interrupted one is dropped.
 *
 * @param rate samples per second.
 * @param focus held while a reply is heard.
 */
class Speaker(rate: Int, private val focus: AudioFocus) : AutoCloseable {
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
    private class Chunk(val reply: Int, val samples: FloatArray) : Item
    private class ReplyEnd(val reply: Int) : Item
    private object Close : Item

    private val queue = LinkedBlockingQueue<Item>()

    // The reply that may be heard, and the one that the track holds.
    @Volatile
    private var current = 0
    private var playing = -1

    private val writer = thread(name = "speaker") { write() }

    /** Plays float32 samples of a reply behind what waits. */
    fun play(reply: Int, samples: FloatArray) = queue.put(Chunk(reply, samples))

    /** The reply is complete: what the hardware still holds is played to its end. */
    fun finish(reply: Int) = queue.put(ReplyEnd(reply))

    /** Drops everything that was not heard yet; from now on only the reply [next] is played. */
    fun stop(next: Int) {
        current = next
        track.pause()
        track.flush()
        focus.release()
    }

    override fun close() {
        stop(current + 1)
        queue.put(Close)
        writer.join()
        track.release()
    }

    private fun write() {
        while (true) {
            when (val item = queue.take()) {
                is Chunk -> if (item.reply == current) write(item)
                is ReplyEnd -> if (item.reply == current) finish()
                Close -> return
            }
        }
    }

    private fun finish() {
        track.stop()
        focus.release()
    }

    private fun write(chunk: Chunk) {
        if (chunk.reply != playing) {
            // A piece of an interrupted reply may have been written behind its stop.
            track.pause()
            track.flush()
            playing = chunk.reply
            focus.request()
        }
        if (track.playState != AudioTrack.PLAYSTATE_PLAYING) track.play()
        val samples = chunk.samples
        var start = 0
        while (start < samples.size && chunk.reply == current) {
            val count = track.write(samples, start, samples.size - start, AudioTrack.WRITE_BLOCKING)
            // A pause from outside ends the write early; an error ends the chunk.
            if (count <= 0) return
            start += count
        }
    }
}
