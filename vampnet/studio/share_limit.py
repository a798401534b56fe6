"""How often one visitor may share: nobody fills the gallery, where the oldest vamps make room for new ones, alone."""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vampnet.gallery import GalleryError
from vampnet.gallery_index import Limits

HOUR = 3600.0
ADDRESS_SHARE = 5
"""An address may share this many times as much as a visitor: schools and companies have one for all their people."""
PART = 10
"""A visitor may fill this part of the gallery an hour, an address as many times as much as of everything."""
MOST_KEYS = 10_000
"""Visitors and addresses that are remembered; the one that shared longest ago is forgotten first."""
LONGEST_HEADER = 4096


class ShareLimit:
    """Counts what was shared within the last hour, by visitor and by address: how many vamps and how many bytes.

    Args:
        hourly: how many vamps a visitor may share an hour; 0 = as many as they like, of any size.
        proxies: how many of our own proxies stand before this server and write down who asks them; 0 = none, and headers
            are believed of nobody.
        clock: seconds.
        bytes: of the whole gallery; a visitor who has filled a tenth of it within an hour has to wait. 0 = no limit.
    """

    def __init__(self, hourly: int, proxies: int = 0, clock: Callable[[], float] = time.monotonic, bytes: int = 0) -> None:
        self.hourly, self.proxies, self._clock, self.bytes = hourly, proxies, clock, bytes
        self._shared: dict[str, deque[_Share]] = {}
        self._lock = threading.Lock()

    @classmethod
    def of(cls, limits: Limits) -> ShareLimit:
        """What the limits of a gallery say."""
        return cls(limits.hourly, limits.proxies, bytes=limits.bytes)

    @contextmanager
    def counted(self, request: Any, owner: str = "") -> Iterator[Callable[[int], None]]:
        """Around the sharing of one vamp; what fails is not counted. Gives what is to be told the bytes of what was shared.

        Args:
            request: of Gradio or Starlette.
            owner: the owner's cookie, which is worth nothing alone: anybody can make up a new one.

        Raises:
            GalleryError: too many within the last hour, or too much; nothing was shared.
        """
        keys = {f"owner {owner}": 1} if owner else {}
        address = address_of(request, self.proxies)
        keys |= {f"address {address}": ADDRESS_SHARE} if address else {}
        one = _Share(self._clock())
        self._count(keys if self.hourly else {}, one)

        def weigh(size: int) -> None:
            one.bytes = size

        try:
            yield weigh
        except BaseException:
            with self._lock:
                for key in keys:
                    if any(found is one for found in self._shared.get(key, ())):
                        self._shared[key].remove(one)
            raise

    def _count(self, keys: dict[str, int], one: _Share) -> None:
        with self._lock:
            for key, times in keys.items():
                found = self._shared.get(key, deque())
                while found and one.at - found[0].at >= HOUR:
                    found.popleft()
                held, most = sum(share.bytes for share in found), times * self.bytes / PART
                if len(found) >= times * self.hourly or (self.bytes and held >= most):
                    often = len(found) >= times * self.hourly
                    minutes = max(1, math.ceil((found[0].at + HOUR - one.at) / 60))
                    many = times * self.hourly if often else f"{held / 1e6:.0f}"
                    what = f"{many} vamps" if often else f"{many} MB"
                    sentence = f"{what} were shared from here within an hour: share again in {minutes} minutes."
                    raise GalleryError("too_often" if often else "too_much", sentence, most=many, minutes=minutes)
            for key in keys:
                # Put at the end: the first one is that which shared longest ago.
                found = self._shared.pop(key, deque())
                found.append(one)
                self._shared[key] = found
            while len(self._shared) > MOST_KEYS:
                del self._shared[next(iter(self._shared))]


@dataclass(eq=False)
class _Share:
    at: float
    bytes: int = 0


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
