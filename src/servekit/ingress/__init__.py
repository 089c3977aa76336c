"""The ingress worker: from a socket to a frame and back."""
