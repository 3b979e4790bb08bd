package android.media;

import java.io.IOException;
import java.io.InputStream;

/** The part of API 24 that the app uses. */
public class ExifInterface {
    public static final String TAG_ORIENTATION = "Orientation";
    public static final int ORIENTATION_NORMAL = 1;
    public static final int ORIENTATION_ROTATE_180 = 3;
    public static final int ORIENTATION_ROTATE_90 = 6;
    public static final int ORIENTATION_ROTATE_270 = 8;

    public ExifInterface(InputStream stream) throws IOException {
        throw new UnsupportedOperationException();
    }

    public int getAttributeInt(String tag, int defaultValue) {
        throw new UnsupportedOperationException();
    }
}
