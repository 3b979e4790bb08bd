package android.app;

import android.content.Context;

/** The part of API 26 that the app uses. */
public class Notification {
    public static class Builder {
        public Builder(Context context, String channelId) {
            throw new UnsupportedOperationException();
        }

        @Deprecated
        public Builder(Context context) {
            throw new UnsupportedOperationException();
        }

        public Builder setSmallIcon(int icon) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentTitle(CharSequence title) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentText(CharSequence text) {
            throw new UnsupportedOperationException();
        }

        public Builder setContentIntent(PendingIntent intent) {
            throw new UnsupportedOperationException();
        }

        public Builder setOngoing(boolean ongoing) {
            throw new UnsupportedOperationException();
        }

        public Notification build() {
            throw new UnsupportedOperationException();
        }
    }
}
