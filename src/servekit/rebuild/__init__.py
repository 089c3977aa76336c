"""Reductions of objects that pickling does not take, for them to be rebuilt elsewhere: see `objects` and
`definitions`."""
