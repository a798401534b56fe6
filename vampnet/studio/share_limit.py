"""How often one visitor may share: nobody fills the gallery, where the oldest vamps make room for new ones, alone."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from vampnet.gallery import GalleryError

HOUR = 3600.0
ADDRESS_SHARE = 5
"""An address may share this many times as much as a visitor: schools and companies have one for all their people."""
MOST_KEYS = 10_000
"""Visitors and addresses that are remembered; the one that shared longest ago is forgotten first."""
LONGEST_HEADER = 4096


class ShareLimit:
    """Counts what was shared within the last hour, by visitor and by address.

    Args:
        hourly: how many vamps a visitor may share an hour; 0 = as many as they like.
        proxies: how many of our own proxies stand before this server and write down who asks them; 0 = none, and headers
            are believed of nobody.
        clock: seconds.
    """

    def __init__(self, hourly: int, proxies: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.hourly, self.proxies, self._clock = hourly, proxies, clock
        self._shared: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    @contextmanager
    def counted(self, request: Any, owner: str = "") -> Iterator[None]:
        """Around the sharing of one vamp; what fails is not counted.

        Args:
            request: of Gradio or Starlette.
            owner: the owner's cookie, which is worth nothing alone: anybody can make up a new one.

        Raises:
            GalleryError: too many within the last hour; nothing was shared.
        """
        keys = {f"owner {owner}": self.hourly} if owner else {}
        address = address_of(request, self.proxies)
        keys |= {f"address {address}": ADDRESS_SHARE * self.hourly} if address else {}
        now = self._clock()
        self._count(keys if self.hourly else {}, now)
        try:
            yield
        except BaseException:
            with self._lock:
                for key in keys:
                    if now in self._shared.get(key, ()):
                        self._shared[key].remove(now)
            raise

    def _count(self, keys: dict[str, int], now: float) -> None:
        with self._lock:
            for key, most in keys.items():
                times = self._shared.get(key, deque())
                while times and now - times[0] >= HOUR:
                    times.popleft()
                if len(times) >= most:
                    minutes = max(1, math.ceil((times[0] + HOUR - now) / 60))
                    sentence = f"{most} vamps were shared from here within an hour: share again in {minutes} minutes."
                    raise GalleryError("too_often", sentence, most=most, minutes=minutes)
            for key in keys:
                # Put at the end: the first one is that which shared longest ago.
                times = self._shared.pop(key, deque())
                times.append(now)
                self._shared[key] = times
            while len(self._shared) > MOST_KEYS:
                del self._shared[next(iter(self._shared))]


def address_of(request: Any, proxies: int = 0) -> str:
    """The address of who asks, for an IPv6 address its network, of which one household has a whole one; "" if unknown.

    Each proxy writes the address that asks it to the end of X-Forwarded-For. What stands before what our own have written is
    the visitor's invention.

    Args:
        request: of Gradio or Starlette.
        proxies: how many of them are our own.
    """
    client = getattr(request, "client", None)
    found = _network(getattr(client, "host", None) or "")
    if proxies > 0:
        header = str((getattr(request, "headers", None) or {}).get("x-forwarded-for") or "")[-LONGEST_HEADER:]
        entries = header.split(",")
        found = (_network(entries[-proxies]) if len(entries) >= proxies else "") or found
    return found


def _network(text: str) -> str:
    """ "203.0.113.7" of it with or without a port, "2001:db8:1:2::/64" of an IPv6 address; "" of anything else."""
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        return str(mapped)
    return str(address) if address.version == 4 else str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
