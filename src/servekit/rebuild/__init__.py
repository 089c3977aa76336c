"""How what pickling does not take is rebuilt elsewhere: see `objects` and `definitions`."""
