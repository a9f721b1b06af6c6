"""Measures how long the owner of a build has been silent while events waited, by this process's clock."""

import time
from collections.abc import Callable, Iterable

from msgspec import Struct

from runstore.projections.builds import Build
from runstore.projections.projection import Slot


class _Silence(Struct, frozen=True):
    owner: str | None
    beat: int
    seconds: float = 0.0


class Silences:
    """Watches the beats of builds. No two clocks are compared.

    Args:
        lease_s: seconds of silence after which a build may be taken over.
        longest_look_s: the most seconds that one look counts: this process may have been suspended itself.
    """

    def __init__(
        self, lease_s: float, *, longest_look_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._lease_s = lease_s
        self._longest_look_s = longest_look_s
        self._clock = clock
        self._looked_at = clock()
        self._seen: dict[tuple[str, Slot], _Silence] = {}

    def look(self, builds: Iterable[Build], mark: int) -> None:
        """Note the beats of all builds. `mark`: the position that live builds can reach now."""
        looked_at, self._looked_at = self._looked_at, self._clock()
        passed_s = min(self._looked_at - looked_at, self._longest_look_s)
        self._seen = {(build.name, build.slot): self._silence(build, mark, passed_s) for build in builds}

    def clear(self) -> None:
        """Give every owner a whole lease, after an outage of the database."""
        self._seen.clear()

    def may_take(self, build: Build, by: str) -> bool:
        """Whether a process may advance a build, as of the last look."""
        silence = self._seen.get((build.name, build.slot))
        return build.owner in (None, by) or (silence is not None and silence.seconds >= self._lease_s)

    def _silence(self, build: Build, mark: int, passed_s: float) -> _Silence:
        seen = self._seen.get((build.name, build.slot))
        idle = build.live and build.position >= mark
        if seen is None or idle or (seen.owner, seen.beat) != (build.owner, build.beat):
            return _Silence(build.owner, build.beat)
        return _Silence(build.owner, build.beat, seen.seconds + passed_s)
