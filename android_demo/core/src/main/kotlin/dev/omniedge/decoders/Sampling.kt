package dev.omniedge.decoders

import dev.omniedge.UsageException
import dev.omniedge.bundle.SamplingSection

// Beyond these, float32 logits overflow or vanish.
private val TEMPERATURES = 1e-3..1e3
private val PENALTIES = 1e-6..1e6

/**
 * The rules for drawing tokens; null takes the bundle's default.
 *
 * @property temperature divides the logits; 0 always takes the best token (the penalty still applies).
 * @property topK keep the k best tokens; 0 keeps all.
 * @property topP keep the best tokens that together reach this probability; 1 keeps all.
 * @property repetitionPenalty above 1 makes tokens that occurred before less likely.
 * @throws UsageException a value out of its range.
 */
data class Sampling(
    val temperature: Double? = null,
    val topK: Int? = null,
    val topP: Double? = null,
    val repetitionPenalty: Double? = null,
) {
    init {
        if (temperature != null && temperature != 0.0 && temperature !in TEMPERATURES) {
            refuse("temperature", temperature, "0, or ${TEMPERATURES.start} to ${TEMPERATURES.endInclusive}")
        }
        if (topK != null && topK < 0) refuse("topK", topK, "0 or more")
        if (topP != null && !(topP > 0 && topP <= 1)) refuse("topP", topP, "above 0 and at most 1")
        if (repetitionPenalty != null && repetitionPenalty !in PENALTIES) {
            refuse("repetitionPenalty", repetitionPenalty, "${PENALTIES.start} to ${PENALTIES.endInclusive}")
        }
    }

    /** Complete settings: [defaults], replaced by every property that is not null. */
    fun over(defaults: SamplingSection): SamplingSection = defaults.copy(
        temperature = temperature ?: defaults.temperature,
        topK = topK ?: defaults.topK,
        topP = topP ?: defaults.topP,
        repetitionPenalty = repetitionPenalty ?: defaults.repetitionPenalty,
    )

    companion object {
        /** Always the best token. */
        val Greedy = Sampling(temperature = 0.0)
    }
}

private fun refuse(name: String, value: Number, needed: String): Nothing =
    throw UsageException("$name is $value; it must be $needed.")
