"""The clock: how time is counted, in whole ticks, so many to the quarter.

Twelve by default: sixteenths and eighth triplets both fall on them. No floats and no fractions exist past
the reader.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Clock:
    """`quarter` ticks to the quarter."""

    quarter: int = 12

    def ticks(self, quarters: float) -> int:
        """The nearest number of ticks."""
        return round(quarters * self.quarter)

    def quarters(self, ticks: float) -> float:
        """So many ticks as quarters."""
        return ticks / self.quarter

    def seconds(self, ticks: float, tempo: float) -> float:
        """So many ticks at `tempo` quarters a minute."""
        return ticks / self.quarter * 60 / tempo

    def bar(self, meter: tuple[int, int]) -> int:
        """Ticks in a bar of a meter such as (3, 4); at least one."""
        return max(4 * self.quarter * meter[0] // meter[1], 1)

    def beat(self, meter: tuple[int, int]) -> int:
        """Ticks in the note value that a meter counts; at least one."""
        return self.bar((1, meter[1]))

    def meter_of(self, ticks: int) -> tuple[int, int] | None:
        """The meter in which a bar has so many ticks, in the longest beats that do; None: MIDI has none."""
        whole = 4 * self.quarter
        for below in (4, 8, 16, 32):
            if 0 < ticks * below <= 255 * whole and ticks * below % whole == 0:
                return ticks * below // whole, below
        return None


TWELFTHS = Clock()
