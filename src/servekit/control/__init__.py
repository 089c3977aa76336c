"""The controller: desired state to running workers. Never on a request's path."""
