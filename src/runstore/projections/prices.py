"""The prices of models, from the configuration, for the cost of runs."""

import datetime
import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from runstore.core.events import ModelUsage

MAX_PRICE = 1_000_000  # units of the currency, for a million tokens
MAX_COST = 1_000_000  # units of the currency, for a run's calls of one model: sums fit into 64 bits
NANO = 1_000_000_000  # nano units of a currency in one unit; costs are whole numbers of them
MILLION = 1_000_000  # tokens that a price is for


class Price(Struct, frozen=True, forbid_unknown_fields=True, rename={"from_date": "from-date"}):
    """`[prices."MODEL"]`: prices of a model from a day on (UTC), in units of the currency per million tokens.

    `cache_read`, `cache_write`: of the cached part of the prompt; without them it costs as the rest.
    """

    input: float
    output: float
    cache_read: float | None = None
    cache_write: float | None = None
    currency: str = "USD"
    from_date: datetime.date = datetime.date.min

    def __post_init__(self) -> None:
        for name in ("input", "output", "cache_read", "cache_write"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= MAX_PRICE:
                raise ValueError(f"`{name}` must be from 0 to {MAX_PRICE:,}, not {value}")
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise ValueError("`currency` must be three capital letters, as 'USD'")

    def cost(self, used: ModelUsage) -> int:
        """The cost of a run's calls of this model, in nano units; rounded once, and at most MAX_COST."""
        uncached = max(0, used.input_tokens - used.cache_read_tokens - used.cache_write_tokens)
        cached = self.input if self.cache_read is None else self.cache_read
        written = self.input if self.cache_write is None else self.cache_write
        total = (
            uncached * _nano(self.input)
            + used.cache_read_tokens * _nano(cached)
            + used.cache_write_tokens * _nano(written)
            + used.output_tokens * _nano(self.output)
        )
        return min((total + MILLION // 2) // MILLION, MAX_COST * NANO)

    @property
    def facts(self) -> list[object]:
        """All that costs depend on; equal prices have equal facts."""
        prices = (self.input, self.output, self.cache_read, self.cache_write)
        nanos = [None if price is None else _nano(price) for price in prices]
        return [self.from_date.isoformat(), self.currency, *nanos]


class Prices:
    """The prices of all models, each with the days from which they count."""

    def __init__(self, prices: Mapping[str, Sequence[Price]] | None = None) -> None:
        ordered = {
            model: sorted(entries, key=lambda price: price.from_date)
            for model, entries in (prices or {}).items()
        }
        self._prices = {
            model: ([price.from_date.isoformat() for price in entries], entries)
            for model, entries in ordered.items()
        }
        self.fingerprint = ""
        if ordered:
            facts = {model: [price.facts for price in entries] for model, entries in ordered.items()}
            self.fingerprint = hashlib.sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:32]

    def __iter__(self) -> Iterator[tuple[str, Price]]:
        """Each price with its model, in the order of models and days."""
        for model, (_, entries) in sorted(self._prices.items()):
            for price in entries:
                yield model, price

    def of(self, model: str, day: str) -> Price | None:
        """The price of a model on a day (as 2026-11-29); None: not known."""
        days, entries = self._prices.get(model, ((), ()))
        begun = bisect_right(days, day)
        return entries[begun - 1] if begun else None


def unquoted(model: str, table: Mapping[str, Any]) -> str | None:
    """The whole id of a model whose dots made tables within tables, as in `[prices.gpt-5.1]`; else None."""
    parts, inner = [model], table
    while found := next(((name, each) for name, value in inner.items() for each in _tables(value)), None):
        name, inner = found
        parts.append(name)
    return ".".join(parts) if len(parts) > 1 else None


def _tables(value: Any) -> list[dict[str, Any]]:
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, dict)]


def _nano(price: float) -> int:
    return round(price * NANO)
