package dev.omniedge.conversation

import dev.omniedge.UsageException
import dev.omniedge.decoders.Sampling

/**
 * What is different in one reply; null leaves it to the conversation's settings.
 *
 * @property text the reply itself, which is spoken as it stands; null: the Thinker writes it.
 * @property speech false: this reply is text only.
 * @property sampling how text tokens are drawn.
 * @property seed of this reply's random streams.
 * @property stop texts that end the reply; neither they nor what follows them comes out.
 * @property unspoken texts that end the speech; they and what follows them is written only.
 * @throws UsageException a seed below 0, an empty [text], or an empty one in [stop] or [unspoken].
 */
data class ReplySettings(
    val text: String? = null,
    val speech: Boolean = true,
    val sampling: Sampling? = null,
    val seed: Long? = null,
    val stop: List<String> = emptyList(),
    val unspoken: List<String> = emptyList(),
) {
    init {
        if (seed != null && seed < 0) throw UsageException("The seed is $seed; it must be 0 or more.")
        if (text == "" || "" in stop || "" in unspoken) {
            throw UsageException("The text of a reply and the texts that end it or its speech must not be empty.")
        }
    }
}
