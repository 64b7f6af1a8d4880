"""Payments and the months to which they belong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Payment:
    """Money that came in: when, as the bank says it (seconds since 1970, UTC), and how many cents."""

    received_seconds: int
    cents: int
    note: str = ""


def booked_at(payment: Payment) -> datetime:
    """The time that the books show."""
    return datetime.fromtimestamp(payment.received_seconds)


def month_of(payment: Payment) -> str:
    """The month whose books show it, as ``2025-04``."""
    return booked_at(payment).strftime("%Y-%m")


def total_cents(payments: Iterable[Payment], month: str) -> int:
    """What came in during one month."""
    return sum(payment.cents for payment in payments if month_of(payment) == month)


def render_amount(cents: int) -> str:
    """``1234.50``."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02}"
