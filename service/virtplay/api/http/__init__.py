"""The HTTP machinery: turns a request into a call of a handler, and its result into a response."""
