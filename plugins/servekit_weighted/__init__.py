"""The bundled routing policies.

A plugin is a module like this one: classes that implement an abstract class of `servekit.interfaces`, a hook that gives
each class a name, and an entry point of the group ``servekit`` that names the module.
"""

from __future__ import annotations

from collections.abc import Mapping

from servekit.hookspecs import hookimpl
from servekit.interfaces import RoutingPolicyFactory
from servekit_weighted.header_rules import HeaderRules
from servekit_weighted.packing import FixedPacking
from servekit_weighted.random_choice import RandomChoice
from servekit_weighted.split import MAX_REMEMBERED, WeightedSplit
from servekit_weighted.sticky import Sticky
from servekit_weighted.turns import LeastLoaded, RoundRobin

__all__ = ["FixedPacking", "HeaderRules", "LeastLoaded", "RandomChoice", "RoundRobin", "Sticky", "WeightedSplit"]
__all__ += ["MAX_REMEMBERED"]


@hookimpl
def servekit_register_routing_policies() -> Mapping[str, RoutingPolicyFactory]:
    return {
        "weighted": WeightedSplit,
        "round_robin": RoundRobin,
        "least_loaded": LeastLoaded,
        "random": RandomChoice,
        "fixed_packing": FixedPacking,
        "header": HeaderRules,
        "sticky": Sticky,
    }
