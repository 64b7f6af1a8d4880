from __future__ import annotations

import pytest

from ledger import Payment, booked_at, month_of, render_amount, total_cents

NOON = 1_742_900_400  # 25 March 2025, 11:00 UTC
LATE = 1_743_460_200  # 31 March 2025, 22:30 UTC: half past midnight in Berlin, where the books are kept


def test_a_payment_at_noon_belongs_to_its_month() -> None:
    assert month_of(Payment(NOON, 100)) == "2025-03"


def test_a_payment_after_midnight_is_booked_on_the_new_day() -> None:
    assert str(booked_at(Payment(LATE, 100))) == "2025-04-01 00:30:00"


def test_refunds_are_subtracted() -> None:
    assert total_cents([Payment(NOON, 5_000), Payment(NOON, -1_250)], "2025-03") == 3_750


def test_other_months_do_not_count() -> None:
    assert total_cents([Payment(NOON, 5_000)], "2025-01") == 0


@pytest.mark.parametrize(("cents", "shown"), [(0, "0.00"), (5, "0.05"), (123_450, "1234.50"), (-99, "-0.99")])
def test_an_amount_has_two_decimals(cents: int, shown: str) -> None:
    assert render_amount(cents) == shown
