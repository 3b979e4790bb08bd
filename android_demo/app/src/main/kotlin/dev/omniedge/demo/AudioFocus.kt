package dev.omniedge.demo

import android.content.Context
import android.media.AudioManager

/**
 * The right to be heard: other apps fall silent while a reply is spoken.
 *
 * @param onLoss called on the main thread when a call or another app takes it.
 */
class AudioFocus(context: Context, private val onLoss: () -> Unit) {
    private val manager = context.getSystemService(Context.AUDIO_SERVICE) as AudioManager
    private val listener = AudioManager.OnAudioFocusChangeListener { change ->
        if (change == AudioManager.AUDIOFOCUS_LOSS || change == AudioManager.AUDIOFOCUS_LOSS_TRANSIENT) onLoss()
    }

    /** Takes it until [release]; from any thread. */
    @Suppress("DEPRECATION") // the only one before Android 8
    fun request() {
        manager.requestAudioFocus(listener, AudioManager.STREAM_MUSIC, AudioManager.AUDIOFOCUS_GAIN_TRANSIENT)
    }

    /** Gives it back. */
    @Suppress("DEPRECATION") // the only one before Android 8
    fun release() {
        manager.abandonAudioFocus(listener)
    }
}
