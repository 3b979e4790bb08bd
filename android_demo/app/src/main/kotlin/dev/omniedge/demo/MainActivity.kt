package dev.omniedge.demo

import android.Manifest
import android.app.Activity
import android.content.ActivityNotFoundException
import android.content.Intent
import android.content.pm.PackageManager
import android.graphics.Bitmap
import android.os.Bundle
import android.provider.MediaStore
import android.view.MotionEvent
import android.view.View
import android.widget.AdapterView
import android.widget.ArrayAdapter
import android.widget.Button
import android.widget.CheckBox
import android.widget.EditText
import android.widget.ProgressBar
import android.widget.ScrollView
import android.widget.Spinner
import android.widget.TextView
import android.widget.Toast

private const val ASK_PERMISSIONS = 1
private const val FROM_GALLERY = 2
private const val FROM_CAMERA = 3

// For the notification of hands-free mode; a permission since Android 13, which older ones ignore.
private const val POST_NOTIFICATIONS = "android.permission.POST_NOTIFICATIONS"

/** The only screen: it shows a [TalkState] and hands the user's wishes to [Talk]. */
class MainActivity : Activity() {
    private val talk get() = (application as DemoApp).talk
    private val status by lazy { view(R.id.status) as TextView }
    private val progress by lazy { view(R.id.progress) as ProgressBar }
    private val scroll by lazy { view(R.id.scroll) as ScrollView }
    private val transcript by lazy { view(R.id.transcript) as TextView }
    private val figures by lazy { view(R.id.figures) as TextView }
    private val text by lazy { view(R.id.text) as EditText }
    private val voice by lazy { view(R.id.voice) as Spinner }
    private val handsFree by lazy { view(R.id.hands_free) as CheckBox }
    private val holdToTalk by lazy { view(R.id.talk) as Button }

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.main)
        holdToTalk.setOnTouchListener { _, event -> holdToTalk(event) }
        handsFree.setOnClickListener { setHandsFree(handsFree.isChecked) }
        onClick(R.id.send) { send() }
        text.setOnEditorActionListener { _, _, _ ->
            send()
            true
        }
        onClick(R.id.stop) { talk.stop() }
        onClick(R.id.reset) { talk.reset() }
        onClick(R.id.gallery) {
            val files = Intent(Intent.ACTION_GET_CONTENT).addCategory(Intent.CATEGORY_OPENABLE)
            ask(files.setType("image/*"), FROM_GALLERY)
        }
        onClick(R.id.camera) { ask(Intent(MediaStore.ACTION_IMAGE_CAPTURE), FROM_CAMERA) }
        voice.onItemSelectedListener = object : AdapterView.OnItemSelectedListener {
            override fun onItemSelected(parent: AdapterView<*>, view: View?, position: Int, id: Long) {
                val name = parent.getItemAtPosition(position) as String
                if (name != talk.state.voice) talk.voice(name)
            }

            override fun onNothingSelected(parent: AdapterView<*>) = Unit
        }
        if (savedInstanceState == null && !mayRecord()) askPermissions()
    }

    override fun onStart() {
        super.onStart()
        talk.onChange = ::show
        show(talk.state)
    }

    override fun onStop() {
        // A button that is held when the screen goes gets no event any more.
        talk.stopTalking()
        talk.onChange = {}
        super.onStop()
    }

    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        if (resultCode != RESULT_OK || data == null) return
        val uri = data.data
        @Suppress("DEPRECATION") // the typed form is of Android 13
        val thumbnail = data.extras?.getParcelable<Bitmap>("data")
        when {
            requestCode == FROM_GALLERY && uri != null -> talk.show { Pictures.read(contentResolver, uri) }
            requestCode == FROM_CAMERA && thumbnail != null -> talk.show { Pictures.frame(thumbnail) }
        }
    }

    private fun show(state: TalkState) {
        val loading = state.phase == Phase.LOADING
        status.text = state.message.ifEmpty { state.phase.name.lowercase().replaceFirstChar(Char::uppercase) }
        progress.visibility = if (loading) View.VISIBLE else View.GONE
        progress.isIndeterminate = state.progress == 0f || state.progress == 1f
        progress.progress = (state.progress * progress.max).toInt()
        if (transcript.text.toString() != state.transcript) {
            transcript.text = state.transcript
            scroll.post { scroll.fullScroll(View.FOCUS_DOWN) }
        }
        figures.text = state.figures
        handsFree.isChecked = state.handsFree
        val ready = !loading && state.phase != Phase.FAILED
        listOf(R.id.send, R.id.stop, R.id.reset, R.id.gallery, R.id.camera).forEach { view(it).isEnabled = ready }
        handsFree.isEnabled = ready
        holdToTalk.isEnabled = ready && !state.handsFree
        showVoices(state)
    }

    private fun showVoices(state: TalkState) {
        voice.visibility = if (state.voices.isEmpty()) View.INVISIBLE else View.VISIBLE
        if (state.voices.isNotEmpty() && voice.adapter?.count != state.voices.size) {
            voice.adapter = ArrayAdapter(this, android.R.layout.simple_spinner_dropdown_item, state.voices)
            voice.setSelection(state.voices.indexOf(state.voice))
        }
    }

    private fun holdToTalk(event: MotionEvent): Boolean {
        when (event.actionMasked) {
            MotionEvent.ACTION_DOWN -> if (mayRecord()) talk.startTalking() else explainMicrophone()
            MotionEvent.ACTION_UP, MotionEvent.ACTION_CANCEL -> talk.stopTalking()
        }
        // The button itself shows that it is pressed.
        return false
    }

    private fun setHandsFree(on: Boolean) {
        if (on && !mayRecord()) {
            handsFree.isChecked = false
            return explainMicrophone()
        }
        talk.handsFree(on)
    }

    private fun send() {
        val written = text.text.toString().trim()
        if (written.isEmpty()) return
        text.text.clear()
        talk.write(written)
    }

    private fun ask(intent: Intent, code: Int) = try {
        startActivityForResult(intent, code)
    } catch (error: ActivityNotFoundException) {
        toast(R.string.no_app)
    }

    private fun mayRecord() = checkSelfPermission(Manifest.permission.RECORD_AUDIO) == PackageManager.PERMISSION_GRANTED

    private fun explainMicrophone() {
        toast(R.string.no_microphone)
        askPermissions()
    }

    private fun askPermissions() =
        requestPermissions(arrayOf(Manifest.permission.RECORD_AUDIO, POST_NOTIFICATIONS), ASK_PERMISSIONS)

    private fun toast(message: Int) = Toast.makeText(this, message, Toast.LENGTH_LONG).show()

    private fun onClick(id: Int, action: () -> Unit) = view(id).setOnClickListener { action() }

    private fun view(id: Int): View = findViewById(id)
}
