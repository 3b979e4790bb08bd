package dev.omniedge.demo

import android.app.Notification
import android.app.NotificationChannel
import android.app.NotificationManager
import android.app.PendingIntent
import android.app.Service
import android.content.Context
import android.content.Intent
import android.os.Build
import android.os.IBinder

private const val CHANNEL = "talk"
private const val NOTIFICATION = 1

/** Keeps the microphone open in hands-free mode while another app is in front; its type stands in the manifest. */
class TalkService : Service() {
    override fun onBind(intent: Intent?): IBinder? = null

    override fun onStartCommand(intent: Intent?, flags: Int, startId: Int): Int {
        startForeground(NOTIFICATION, notification())
        return START_NOT_STICKY
    }

    override fun onTaskRemoved(rootIntent: Intent?) {
        (application as DemoApp).talk.handsFree(false)
        stopSelf()
    }

    private fun notification(): Notification {
        val open = Intent(this, MainActivity::class.java).addFlags(Intent.FLAG_ACTIVITY_SINGLE_TOP)
        return builder()
            .setSmallIcon(R.drawable.icon)
            .setContentTitle(getString(R.string.app_name))
            .setContentText(getString(R.string.hands_free_on))
            .setContentIntent(PendingIntent.getActivity(this, 0, open, PendingIntent.FLAG_IMMUTABLE))
            .setOngoing(true)
            .build()
    }

    @Suppress("DEPRECATION") // the only one before Android 8
    private fun builder(): Notification.Builder {
        if (Build.VERSION.SDK_INT < NOTIFICATION_CHANNELS_SDK) return Notification.Builder(this)
        val manager = getSystemService(Context.NOTIFICATION_SERVICE) as NotificationManager
        val name = getString(R.string.hands_free)
        manager.createNotificationChannel(NotificationChannel(CHANNEL, name, NotificationManager.IMPORTANCE_LOW))
        return Notification.Builder(this, CHANNEL)
    }

    companion object {
        private const val NOTIFICATION_CHANNELS_SDK = 26

        /** Starts or stops the service; the app must be in front to start it. */
        fun set(context: Context, on: Boolean) {
            val intent = Intent(context, TalkService::class.java)
            if (on) context.startService(intent) else context.stopService(intent)
        }
    }
}
