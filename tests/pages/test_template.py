from __future__ import annotations

import pytest

from evax.pages.template import show_duration, show_interval, show_number, show_p_value, show_percent


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (show_number(0.12345), "0.123"),
        (show_number(None), "not defined"),
        (show_interval([0.1, 0.25]), "[0.100, 0.250]"),
        (show_interval([None, None]), "[not defined]"),
        (show_p_value(0.04), "0.040"),
        (show_p_value(0.00099), "<\N{NO-BREAK SPACE}0.001"),
        (show_p_value(None), "–"),
        (show_percent(1, 8), "12.5 %"),
        (show_percent(0, 0), "–"),
        (show_duration(99.94), "99.9 s"),
        (show_duration(7260), "2 h 1 min"),
    ],
)
def test_a_number_is_said_in_one_way_and_a_missing_one_in_words(said, words):
    assert said == words
