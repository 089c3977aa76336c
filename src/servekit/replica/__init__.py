"""The replica worker: from a frame to a handler and back."""
