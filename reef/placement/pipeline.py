"""Strategy `pipeline`: a model cut into segments, one on each of several consecutive devices.

As many whole pipelines are made as fit; the other devices are spare.

A pipeline whose stage died is repaired with a spare device, of the same host where there is one. Without a spare the
most damaged pipeline is dissolved: what is left of it repairs the others or is spare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reef.allocation import Pipeline
from reef.placement.model import Place
from reef.placement.view import Seen, View, count, decide, nearest

Group = list[Seen | None]
"""The devices of a pipeline by stage; None where one is missing."""


def wanted(plan: Pipeline, view: View) -> list[Place]:
    """The place of every device."""
    return _Round(plan, view).places()


class _Round:
    def __init__(self, plan: Pipeline, view: View) -> None:
        self.plan, self.view = plan, view
        able = [device for device in view.free() if device.serves(plan.pool)]
        self.present = {device.node: device for device in able if not device.gone}
        self.groups = self._standing()
        used = {device.node for group in self.groups for device in group if device}
        self.spare = [device for device in self.present.values() if device.node not in used]
        self._repair()
        self._form()

    def _standing(self) -> list[Group]:
        """The pipelines there are, by the places of their devices; a stage whose device is gone is None."""
        found: dict[tuple[str, ...], Group] = {}
        for device in self.view.devices:
            place = self.view.place(device.node)
            whole = len(place.peers) == self.plan.segments and place.pool == self.plan.pool
            if device.node not in self.present or place.tier != "stage" or not whole:
                continue
            group = found.setdefault(place.peers, [None] * self.plan.segments)
            if place.stage < self.plan.segments and place.peers[place.stage] == device.node:
                group[place.stage] = device
        return list(found.values())

    def _repair(self) -> None:
        """Fill gaps from the spare devices, the least damaged first; what cannot be filled feeds the others."""
        broken = [group for group in self.groups if None in group]
        broken.sort(key=lambda group: group.count(None))
        while broken:
            group = broken.pop(0)
            while None in group and not self.spare and broken:
                self._dissolve(broken.pop())
            if group.count(None) > len(self.spare):
                self._dissolve(group)
                continue
            for stage, device in enumerate(group):
                if device is None:
                    best = nearest(self.spare, Counter(one.host for one in group if one))[0]
                    self.spare.remove(best)
                    group[stage] = best

    def _dissolve(self, group: Group) -> None:
        self.groups.remove(group)
        self.spare += [device for device in group if device]

    def _form(self) -> None:
        """New pipelines of consecutive spare devices, of one host as long as one has enough."""
        order = {device.node: place for place, device in enumerate(self.view.devices)}
        self.spare.sort(key=lambda device: order[device.node])
        size = self.plan.segments
        while len(self.spare) >= size:
            hosts = Counter(device.host for device in self.spare)
            host = next((one.host for one in self.spare if hosts[one.host] >= size), None)
            chosen = [device for device in self.spare if host is None or device.host == host][:size]
            self.groups.append(list(chosen))
            self.spare = [device for device in self.spare if device not in chosen]

    def places(self) -> list[Place]:
        """Stages, spares, and those that do not report."""
        places = self.view.kept()
        for group in self.groups:
            places += self._stages([device for device in group if device])
        for device in self.spare:
            reason = (
                f"Spare: too few for another pipeline of {self.plan.segments}; takes the place of a stage that dies."
            )
            places.append(decide(self.view, device.node, reason, tier="reserve", general=False))
        for device in self.view.free():
            if device.node not in self.present:
                reason = "Silent, or out of use: spare when it comes back."
                if not device.serves(self.plan.pool):
                    reason = f"Rests: a device of its kind cannot serve pool {self.plan.pool}."
                places.append(decide(self.view, device.node, reason, tier="reserve", general=False))
        return places

    def _stages(self, group: Sequence[Seen]) -> list[Place]:
        peers = tuple(device.node for device in group)
        told = f"with {count(len(peers) - 1, 'other device')}, from {peers[0]} to {peers[-1]}"
        return [
            decide(
                self.view,
                node,
                f"Stage {stage + 1} of {len(peers)} of {self.plan.model}, {told}.",
                pool=self.plan.pool,
                model=self.plan.model,
                tier="stage",
                # jobs enter at the first stage
                general=stage == 0,
                stage=stage,
                peers=peers,
            )
            for stage, node in enumerate(peers)
        ]
