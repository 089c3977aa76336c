"""Load, changes and faults of all kinds at once, for long; and what is left of it in the end."""
