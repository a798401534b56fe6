"""How often one visitor may share: by cookie, by address, and whom the headers of a request are believed of."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from vampnet.gallery import GalleryError
from vampnet.studio import share_limit
from vampnet.studio.share_limit import ADDRESS_SHARE, ShareLimit, address_of
from vampnet.studio.text import LANGUAGES, say


def asked(host: str | None = "203.0.113.7", forwarded: str | None = None) -> Any:
    headers = {} if forwarded is None else {"x-forwarded-for": forwarded}
    return SimpleNamespace(client=None if host is None else SimpleNamespace(host=host), headers=headers)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def share(limit: ShareLimit, request: Any, owner: str = "") -> bool:
    try:
        with limit.counted(request, owner):
            return True
    except GalleryError as error:
        assert error.reason == "too_often"
        for language in LANGUAGES:
            assert str(error.values["minutes"]) in say("share.too_often", language, **error.values)
        return False


def test_a_visitor_shares_so_often_an_hour_wherever_they_are() -> None:
    clock = Clock()
    limit = ShareLimit(3, clock=clock)
    assert [share(limit, asked(f"203.0.113.{n}"), "me") for n in range(5)] == [True] * 3 + [False] * 2
    assert share(limit, asked(), "you") and share(limit, asked(None), "they")
    clock.now += 1800
    with pytest.raises(GalleryError, match="in 30 minutes"), limit.counted(asked(), "me"):
        raise AssertionError("nothing is shared")
    clock.now += 1800
    assert share(limit, asked(), "me")


def test_an_address_shares_more_and_made_up_cookies_do_not_help() -> None:
    limit = ShareLimit(2)
    told = [share(limit, asked(), f"cookie {n}") for n in range(3 * ADDRESS_SHARE)]
    assert told == [True] * 2 * ADDRESS_SHARE + [False] * ADDRESS_SHARE
    assert not share(limit, asked()) and share(limit, asked("198.51.100.1")) and share(limit, asked(None))


def test_nobody_fills_the_gallery_with_few_large_vamps() -> None:
    clock = Clock()
    limit = ShareLimit(20, clock=clock, bytes=1_000_000)

    def give(request: Any, owner: str, size: int) -> str:
        try:
            with limit.counted(request, owner) as weigh:
                weigh(size)
        except GalleryError as error:
            for language in LANGUAGES:
                assert str(error.values["minutes"]) in say(f"share.{error.reason}", language, **error.values)
            return error.reason
        return ""

    assert [give(asked(), "me", 60_000) for _ in range(3)] == ["", "", "too_much"]
    # Other cookies at the same address, as anybody can make them up.
    given = [give(asked(), f"cookie {n}", 60_000) for n in range(20)]
    assert given.count("") == 7 and given[7:] == ["too_much"] * 13, "half of the gallery is what an address may fill"
    assert give(asked("198.51.100.1"), "you", 60_000) == ""
    clock.now += 3600
    assert give(asked(), "me", 60_000) == ""


def test_what_fails_is_not_counted_and_zero_is_no_limit() -> None:
    limit = ShareLimit(1)
    for _ in range(3):
        with pytest.raises(RuntimeError), limit.counted(asked(), "me"):
            raise RuntimeError("the disk is full")
    assert share(limit, asked(), "me") and not share(limit, asked(), "me")
    assert all(share(ShareLimit(0), asked(), "me") for _ in range(50))


def test_two_at_once_are_two(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, both, told = ShareLimit(1), threading.Barrier(2, timeout=10), []

    def one() -> None:
        both.wait()
        told.append(share(limit, asked(), "me"))

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False, True]
    # Nobody fills the memory with names.
    monkeypatch.setattr(share_limit, "MOST_KEYS", 10)
    assert all(share(limit, asked(None), f"me {n}") for n in range(50)) and len(limit._shared) <= 10


@pytest.mark.parametrize(
    "host, forwarded, proxies, address",
    [
        ("203.0.113.7", "198.51.100.1", 0, "203.0.113.7"),  # nobody's header is believed
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", 1, "198.51.100.1"),  # what stands before it is the visitor's invention
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.9", 2, "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1:5123", 1, "198.51.100.1"),
        ("10.0.0.1", "a" * 100_000 + ", 198.51.100.1", 1, "198.51.100.1"),
        ("10.0.0.1", None, 1, "10.0.0.1"), ("10.0.0.1", "", 1, "10.0.0.1"), ("10.0.0.1", "nonsense", 1, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", 2, "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", None, 0, "2001:db8:1:2::/64"), ("2001:db8:1:2::9", None, 0, "2001:db8:1:2::/64"),
        ("10.0.0.1", "[2001:db8::1]:443", 1, "2001:db8::/64"), ("::ffff:203.0.113.7", None, 0, "203.0.113.7"),
        (None, None, 0, ""), ("testclient", None, 0, ""),
    ],
)  # fmt: skip
def test_the_address_of_who_asks(host: str | None, forwarded: str | None, proxies: int, address: str) -> None:
    assert address_of(asked(host, forwarded), proxies) == address
