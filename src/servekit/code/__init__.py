"""The code of a backend, frozen: found where the client runs, carried to replicas, served there."""
