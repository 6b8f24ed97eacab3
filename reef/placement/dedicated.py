"""Strategy `dedicated`: each persona has devices of its own, services share some, a reserve steps in for what dies.

Seats come first: so many for each persona and service. A device keeps its seat as long as the seat exists, also while
its worker is gone; a device of the reserve then stands in (tier `reserve`, with the routes of the seat) and goes back
when the first one is there again. So a death changes one place, and its end changes it back.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from reef.allocation import Dedicated
from reef.placement.model import Place, persona_route
from reef.placement.view import OPERATOR, PERSONA_PREFIX, RESIDENT_MAX, Seen, View, count, decide, nearest
from reef.topology import CHAT_POOL

ON_DEMAND_IDLE_S = 600.0
"""An on-demand service that was not asked this long is unloaded."""
NEWCOMER_TURNS_MIN = 3
"""Turns of the last hour with which a persona takes the place of one that nobody talked to meanwhile."""
ON_DEMAND_POOL = "media"


class Group(msgspec.Struct, frozen=True):
    """Devices that serve the same: those of one persona, of one service, or of all services on demand (pool "")."""

    pool: str
    persona: str = ""
    seats: int = 0
    model: str = ""
    on_demand: bool = False

    def is_place(self, place: Place) -> bool:
        """Whether a device in this place serves what this group serves."""
        if self.persona:
            return persona_route(self.persona) in place.routes
        return place.pool == self.pool and not place.routes

    @property
    def name(self) -> str:
        return f"persona {self.persona}" if self.persona else f"service {self.pool or 'on demand'}"


def wanted(plan: Dedicated, view: View) -> list[Place]:
    """The place of every device."""
    return _Layout(plan, view).places()


class _Layout:
    """One round: which device is in which seat."""

    def __init__(self, plan: Dedicated, view: View) -> None:
        self.plan, self.view = plan, view
        named = [ON_DEMAND_POOL] if plan.on_demand is None else plan.on_demand
        self.on_demand = [pool for pool in named if plan.services.get(pool)]
        self.groups = [*self._persona_groups(), *self._service_groups()]
        self.seated: dict[Group, list[Seen]] = {group: [] for group in self.groups}
        self.spare = self._keep_seats()
        self._fill_seats()
        self._wake_services()

    # --- who has seats

    def _persona_groups(self) -> list[Group]:
        models = {persona.id: persona.model for persona in self.view.personas}
        each = self.plan.devices_per_persona
        return [Group(CHAT_POOL, persona, each, models.get(persona) or self.plan.model) for persona in self._chosen()]

    def _service_groups(self) -> list[Group]:
        fixed = [
            Group(pool, seats=seats)
            for pool, seats in self.plan.services.items()
            if seats and pool not in self.on_demand
        ]
        loose = sum(self.plan.services[pool] for pool in self.on_demand)
        return [*fixed, Group("", seats=loose)] if loose else fixed

    def _chosen(self) -> list[str]:
        """Personas with devices: those named, or those that have some already, then those talked to most."""
        if not isinstance(self.plan.personas, int):
            return list(dict.fromkeys(self.plan.personas))
        known = [persona.id for persona in self.view.personas]
        turns = Counter(
            {
                need.route.removeprefix(PERSONA_PREFIX): need.recent + need.queued + need.running
                for need in self.view.needs_of(CHAT_POOL)
                if need.route.startswith(PERSONA_PREFIX)
            }
        )
        seated = {
            route.removeprefix(PERSONA_PREFIX)
            for place in self.view.places.values()
            if place.tier == "dedicated"
            for route in place.routes
        }
        holders = [persona for persona in known if persona in seated]
        others = sorted((p for p in known if p not in seated), key=lambda persona: -turns[persona])
        chosen = (holders + others)[: self.plan.personas]
        rest = [persona for persona in others if persona not in chosen]
        silent = [persona for persona in chosen if not turns[persona]]
        if rest and silent and turns[rest[0]] >= NEWCOMER_TURNS_MIN:
            chosen[chosen.index(silent[-1])] = rest[0]
        return sorted(chosen, key=known.index)

    # --- which device has which seat

    def _keep_seats(self) -> list[Seen]:
        """Everybody who has a seat keeps it; gives those who have none."""
        spare = []
        room = {group: group.seats for group in self.groups}
        for place in self.view.kept():
            for group in self.groups:
                if group.is_place(place):
                    room[group] -= 1
        for device in self.view.free():
            own = self._group_of(self.view.place(device.node))
            if own is not None and self._able(own, device) and len(self.seated[own]) < room[own]:
                self.seated[own].append(device)
            else:
                spare.append(device)
        self.room = room
        return spare

    def _group_of(self, place: Place) -> Group | None:
        if place.tier not in ("dedicated", "service"):
            return None
        loose = place.tier == "service" and (not place.pool or place.pool in self.on_demand)
        for group in self.groups:
            if (loose and not group.pool) or (not loose and group.is_place(place)):
                return group
        return None

    def _fill_seats(self) -> None:
        """Empty seats are filled from the spare devices, those of one group on one host where that can be."""
        for group in self.groups:
            while len(self.seated[group]) < self.room[group]:
                able = [device for device in self.spare if self._able(group, device)]
                able = able or self._exchanged(group)
                if not able:
                    break
                missing = self.room[group] - len(self.seated[group])
                idle = [device for device in able if not self._stands_elsewhere(device)] or able
                pool = group.pool or self._unmet(self.seated[group])[0]
                best = nearest(idle, self._pull(group, missing), group.model, pool)[0]
                self.spare.remove(best)
                self.seated[group].append(best)

    def _able(self, group: Group, device: Seen) -> bool:
        """Whether a device can take a seat of this group, or the next one of those that wait for a first job."""
        if group.pool:
            return device.serves(group.pool)
        seated = [one for one in self.seated[group] if one is not device]
        return any(device.serves(pool) for pool in self._unmet(seated))

    def _unmet(self, seated: list[Seen]) -> list[str]:
        """Services on demand that these devices are too few for; who can do least is counted first."""
        left = Counter({pool: self.plan.services[pool] for pool in self.on_demand})
        for device in sorted(seated, key=lambda one: sum(one.serves(pool) for pool in self.on_demand)):
            pool = min((p for p in self.on_demand if left[p] and device.serves(p)), key=device.rank, default="")
            left[pool] -= 1
        return [pool for pool in self.on_demand if left[pool] > 0]

    def _exchanged(self, group: Group) -> list[Seen]:
        """No spare device can serve this group: one whose seat a spare device can take becomes spare, if any."""
        for other, devices in self.seated.items():
            heirs = [device for device in self.spare if other.pool and device.serves(other.pool)]
            for device in devices if heirs else ():
                if self._able(group, device):
                    heir = nearest(heirs, {}, other.model, other.pool)[0]
                    devices[devices.index(device)] = heir
                    self.spare[self.spare.index(heir)] = device
                    return [device]
        return []

    def _wake_services(self) -> None:
        """Services on demand that are asked get their devices; the others' stay in the group that waits."""
        loose = next((group for group in self.groups if not group.pool), None)
        if loose is None:
            return
        for pool in self.on_demand:
            if all(need.idle_s >= ON_DEMAND_IDLE_S for need in self.view.needs_of(pool)):
                continue
            awake = Group(pool, seats=self.plan.services[pool], on_demand=True)
            waiting = sorted(
                (device for device in self.seated[loose] if device.serves(pool)),
                key=lambda device: (device.gone, self.view.place(device.node).pool != pool, device.rank(pool)),
            )
            self.seated[awake] = waiting[: awake.seats]
            self.seated[loose] = [device for device in self.seated[loose] if device not in self.seated[awake]]
            self.groups.append(awake)

    def _pull(self, group: Group, missing: int) -> dict[str, int]:
        """How much each host is wanted for a group: where its others are, else where the whole of it has room."""
        together = Counter(device.host for device in self.seated[group])
        room = Counter(device.host for device in self.spare if not device.gone)
        return {host: 1000 * together[host] + (room[host] >= missing) for host in room | together}

    # --- the places

    def places(self) -> list[Place]:
        """Seats, stand-ins and the reserve."""
        stand_ins = self._stand_ins()
        reserve = [device for device in self.spare if device.node not in stand_ins]
        places = self.view.kept()
        for group, devices in self.seated.items():
            places += [self._seat(group, device) for device in devices if device.node not in stand_ins]
        places += [self._stand_in(node, group) for node, group in stand_ins.items()]
        places += [self._reserve(device) for device in reserve]
        return self._with_somebody_for_all(places)

    def _stand_ins(self) -> dict[str, Group]:
        """Which spare device serves for which group: one for each that has nobody comes before a second for any."""
        found: dict[str, Group] = {}
        groups = self._by_distress()
        for group in groups:
            if not self._alive(group):
                found |= self._sent(group, 1, found) or self._borrowed(group, found)
        for group in groups:
            found |= self._sent(group, self._lacking(group), found)
        return found

    def _sent(self, group: Group, most: int, found: dict[str, Group]) -> dict[str, Group]:
        """Spare devices that bring those found for a group up to `most`; who stands in for it already comes first."""
        spare = [d for d in self.spare if d.alive and d.node not in found and d.serves(group.pool)]
        places = {device.node: self.view.place(device.node) for device in spare}
        here = [d for d in spare if places[d.node].tier == "reserve" and self._serves(group, places[d.node])]
        sent = list(found.values()).count(group)
        # for a device that is not known yet nobody is sent, but who already stands in for it stays
        keep = here[: max(0, most - sent)]
        free = [device for device in spare if not self._stands_elsewhere(device)]
        hosts = Counter(device.host for device in self.seated[group])
        missing = min(most, self._lost(group)) - sent - len(keep)
        new = nearest(free, hosts, group.model, group.pool)[: max(0, missing)]
        return {device.node: group for device in [*keep, *new]}

    def _stands_elsewhere(self, device: Seen) -> bool:
        """Whether it serves for a group that still misses somebody."""
        place = self.view.place(device.node)
        return place.tier == "reserve" and any(
            self._serves(group, place) and self._lacking(group) for group in self.groups if group.pool
        )

    def _serves(self, group: Group, place: Place) -> bool:
        """A device of the reserve serves the chat pool's queue anyway: for a persona it has the persona's route."""
        return bool(group.pool) and group.is_place(place) and (bool(group.persona) or group.pool != CHAT_POOL)

    def _borrowed(self, group: Group, found: dict[str, Group]) -> dict[str, Group]:
        """Nobody is left for a group and no reserve: who waits for jobs, or has several devices, lends one.

        A stand-in of a group that has another device, too, is called off first.
        """
        standing = [d for d in self.spare if d.alive and d.node not in found and d.serves(group.pool)]
        for other in self.groups:
            helpers = [device for device in standing if self._serves(other, self.view.place(device.node))]
            if helpers and self._alive(other) + list(found.values()).count(other) + len(helpers) > 1:
                return {helpers[-1].node: group}
        for lender in sorted(self.groups, key=lambda one: (bool(one.pool), -self._alive(one))):
            free = [device for device in self.seated[lender] if device.alive and device.node not in found]
            able = [device for device in free if device.serves(group.pool)]
            if able and (not lender.pool or len(free) > 1):
                return {able[-1].node: group}
        return {}

    def _by_distress(self) -> list[Group]:
        """Personas before services, those without any device first."""
        served = [group for group in self.groups if group.pool]
        return sorted(served, key=lambda group: (not group.persona, self._alive(group) > 0, -self._lost(group)))

    def _alive(self, group: Group) -> int:
        return sum(device.alive for device in self.seated[group])

    def _lost(self, group: Group) -> int:
        return sum(device.gone for device in self.seated[group])

    def _lacking(self, group: Group) -> int:
        return sum(not device.alive for device in self.seated[group])

    def _seat(self, group: Group, device: Seen) -> Place:
        if not group.pool:
            reason = f"Waits for the first job of {' or '.join(self.on_demand)}."
            return decide(self.view, device.node, reason, tier="service", general=False)
        if not group.persona:
            shared = f"One of {count(group.seats, 'device')} that all share for {group.pool}."
            reason = f"Loaded for {group.pool}: jobs came." if group.on_demand else shared
            return decide(self.view, device.node, reason, pool=group.pool, tier="service")
        reason = f"One of {count(group.seats, 'device')} of persona {group.persona}."
        return decide(
            self.view,
            device.node,
            reason,
            pool=CHAT_POOL,
            tier="dedicated",
            model=group.model,
            general=self._open_to_all(group),
            routes=(persona_route(group.persona),),
        )

    def _open_to_all(self, group: Group) -> bool:
        """Without a reserve and without a device of the chat pool's own, personas' devices serve the others too."""
        chat = self.view.pools[CHAT_POOL]
        seats = sum(one.seats for one in self.groups)
        return not chat.keeps and seats >= len(self.view.devices) and group.model in ("", chat.model)

    def _stand_in(self, node: str, group: Group) -> Place:
        lost = [device.node for device in self.seated[group] if not device.alive]
        reason = f"From the reserve, for {', '.join(lost) or 'nobody'} of {group.name}: silent, or out of use."
        if not group.persona:
            return decide(self.view, node, reason, pool=group.pool, tier="reserve")
        route = (persona_route(group.persona),)
        here = Place(node=node, pool=CHAT_POOL, tier="reserve", model=group.model, general=False, routes=route)
        return decide(self.view, node, reason, **_asked(here))

    def _reserve(self, device: Seen) -> Place:
        if not device.serves(CHAT_POOL):
            reason = "Reserve: waits, and takes the place of a device that dies and does what it can do."
            return decide(self.view, device.node, reason, tier="reserve", general=False)
        own = self.view.pools[CHAT_POOL].model
        models = dict.fromkeys(group.model for group in self.groups if group.model and group.model != own)
        reason = "Reserve: takes what comes, and the place of a device that dies."
        return decide(
            self.view,
            device.node,
            reason,
            pool=CHAT_POOL,
            tier="reserve",
            resident=tuple(models)[:RESIDENT_MAX],
        )

    def _with_somebody_for_all(self, places: list[Place]) -> list[Place]:
        """No reserve is left: one device of each persona answers those without devices of their own, too."""
        chat = self.view.pools[CHAT_POOL]
        alive = {device.node for device in self.view.devices if not device.gone}
        if chat.own or any(p.general and p.pool == CHAT_POOL and p.node in alive for p in places):
            return places
        able = [p for p in places if p.pool == CHAT_POOL and p.node in alive and p.decided_by != OPERATOR]
        fitting = [place for place in able if place.model in ("", chat.model)] or able[:1]
        fitting.sort(key=lambda place: not self.view.place(place.node).general)
        first_of = {place.routes: place for place in reversed(fitting)}
        opened = {
            place.node: msgspec.structs.replace(
                place, general=True, reason=f"{place.reason} It answers everybody, since no reserve is left."
            )
            for place in first_of.values()
        }
        return [opened.get(place.node, place) for place in places]


def _asked(place: Place) -> dict[str, object]:
    """What a place asks for, as fields of a decision."""
    names = ("pool", "model", "tier", "general", "routes", "resident")
    return {name: getattr(place, name) for name in names}
