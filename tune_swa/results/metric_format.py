"""Write values and differences of a metric: accuracies in % and points, nll in nats."""

from __future__ import annotations

from dataclasses import dataclass

from tune_swa.config import Metric


@dataclass(frozen=True)
class MetricFormat:
    """How a metric is written. A *gain* is a difference that is positive where it is better."""

    metric: Metric = "accuracy"

    @property
    def is_nll(self) -> bool:
        return self.metric == "nll"

    @property
    def unit(self) -> str:
        """Of plotted and tabulated values."""
        return "nats" if self.is_nll else "%"

    @property
    def short(self) -> str:
        """What stands in place of the unit where the metric is not named otherwise."""
        return "nll" if self.is_nll else "%"

    @property
    def gain_heading(self) -> str:
        """Heading of a column of gains."""
        return "nll lower by" if self.is_nll else "points"

    @property
    def gain_axis(self) -> str:
        """Title of an axis of gains."""
        return "nll lower by, nats" if self.is_nll else "difference, points"

    def scale(self, value: float) -> float:
        """The number that is plotted, of a value or a gain."""
        return value if self.is_nll else 100 * value

    def format_number(self, value: float | None) -> str:
        """A value in a table, without its unit; empty for None."""
        if value is None:
            return ""
        return f"{value:.4f}" if self.is_nll else f"{100 * value:.2f}"

    def format_value(self, value: float) -> str:
        """A value in a sentence: `97.20 %` or `nll 0.1234`."""
        return f"nll {value:.4f}" if self.is_nll else f"{100 * value:.2f} %"

    def round_gain(self, gain: float) -> float:
        """A gain as it is shown; never -0.0."""
        return (round(gain, 4) if self.is_nll else round(100 * gain, 2)) or 0.0

    def format_gain(self, gain: float | None) -> str:
        """A gain in a table, signed; empty for None."""
        if gain is None:
            return ""
        digits = 4 if self.is_nll else 2
        rounded = self.round_gain(gain)
        return f"{rounded:+.{digits}f}" if rounded else f"{rounded:.{digits}f}"

    def format_range(self, low: float, high: float) -> str:
        return f"{self.format_gain(low)} to {self.format_gain(high)}"

    def describe_gain(self, gain: float) -> str:
        """A gain in a sentence: `+1.20 points`, `nll 0.0123 lower`."""
        if not self.is_nll:
            return f"{100 * gain:+.2f} points"
        rounded = self.round_gain(gain)
        return f"nll {abs(rounded):.4f} {'higher' if rounded < 0 else 'lower'}" if rounded else "nll equal"

    def describe_size(self, difference: float) -> str:
        """The size of a difference in a sentence: `1.20 points`, `0.0123 nats`."""
        return f"{difference:.4f} nats" if self.is_nll else f"{100 * difference:.2f} points"

    def describe_interval(self, low: float, high: float) -> str:
        """The ends of an interval of gains in a sentence: `+0.20 to +2.20`, `0.0034 to 0.0212 lower`."""
        if not self.is_nll:
            return f"{100 * low:+.2f} to {100 * high:+.2f}"
        first, last = self.round_gain(low), self.round_gain(high)
        if first < 0 < last:
            return f"{-first:.4f} higher to {last:.4f} lower"
        if last <= 0:
            return f"{abs(last):.4f} to {abs(first):.4f} higher"
        return f"{first:.4f} to {last:.4f} lower"
