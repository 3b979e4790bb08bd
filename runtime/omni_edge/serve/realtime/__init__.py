"""OpenAI's Realtime interface (GA) over a WebSocket: a conversation by voice, text and pictures."""
