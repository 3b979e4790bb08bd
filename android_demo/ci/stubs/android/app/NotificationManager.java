package android.app;

/** The part of API 26 that the app uses. */
public class NotificationManager {
    public static final int IMPORTANCE_LOW = 2;

    public void createNotificationChannel(NotificationChannel channel) {
        throw new UnsupportedOperationException();
    }
}
