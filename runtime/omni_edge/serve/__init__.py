"""A server for one loaded bundle: OpenAI's HTTP and Realtime interfaces, Wyoming, and a page to talk with it."""
