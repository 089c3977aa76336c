"""The road of a request: which of servekit's own functions are called for one, in the order in which they are."""
