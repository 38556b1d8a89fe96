"""How the report writes numbers."""

import pytest

from report.numbers.texts import MINUS, THIN, number, percent, points, share_name, signed, spaced, with_interval


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (percent(0.95585), f"95.6{THIN}%"),
        (percent(-0.0004), f"0.0{THIN}%"),
        (points(0.0123), "+1.23 points"),
        (points(-0.247, 1), f"{MINUS}24.7 points"),
        (signed(0.001), "0.00"),
        (signed(-0.001), "0.00"),
        (number(12931), "12,931"),
        (number(-1234.56, 1), f"{MINUS}1,234.6"),
        (share_name(0.025), f"2.5{THIN}%"),
        (share_name(None), "unlimited"),
        (spaced("largest"), "largest request"),
        (spaced("20%"), f"20{THIN}%"),
        (with_interval({"rate": 0.5, "rate_ci95": [0.4, 0.6123]}, "rate"), "50.0 (40.0 to 61.2)"),
        (with_interval({"rate": 0.5}, "rate"), "50.0"),
    ],
)
def test_numbers_are_rounded_once_and_carry_their_sign(text, expected):
    assert text == expected
