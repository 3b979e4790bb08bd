package android.app;

/** The part of API 26 that the app uses. */
public final class NotificationChannel {
    public NotificationChannel(String id, CharSequence name, int importance) {
        throw new UnsupportedOperationException();
    }
}
