package dev.omniedge.demo

import android.app.Application

/** Holds the conversation, which outlives the screen. */
class DemoApp : Application() {
    /** The one conversation of the app. */
    val talk: Talk by lazy { Talk(this) }
}
