package dev.omniedge

/** Base of every error that this library raises on purpose. A message says what is wrong, why, and what to do next. */
sealed class OmniEdgeException(message: String, cause: Throwable? = null) : RuntimeException(message, cause)

/** The request itself is wrong; the message names the valid choices. */
class UsageException(message: String) : OmniEdgeException(message)

/** The bundle is missing, damaged, of an unknown format version, or reaches outside its folder. */
class BundleException(message: String, cause: Throwable? = null) : OmniEdgeException(message, cause)

/** A saved conversation is missing, damaged, of another format version, or belongs to another bundle. */
class ConversationException(message: String, cause: Throwable? = null) : OmniEdgeException(message, cause)

/** The sound, picture or video lies outside what the model accepts. */
class MediaException(message: String) : OmniEdgeException(message)

/** Memory or a hardware feature is missing. */
class ResourceException(message: String, cause: Throwable? = null) : OmniEdgeException(message, cause)

/** The session's context has no room for what was pushed; the session is unchanged. */
class ContextFullException(message: String) : OmniEdgeException(message)
