"""Budgets: how far from the base model a run may go, and in words what was further."""

from dataclasses import dataclass

from esft.engine.journal import Back


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What [anchor] max_kl and max_drift allow; None allows all."""

    max_kl: float | None = None
    max_drift: float | None = None

    def __bool__(self) -> bool:
        return self.max_kl is not None or self.max_drift is not None

    def above(self, kl: float | None, kl_se: float | None, drift: float) -> str | None:
        """Return in words what is above; None where all is within. A KL of None is not finite."""
        words = []
        if self.max_kl is not None and (kl is None or kl > self.max_kl):
            error = "" if kl_se is None else f" +- {kl_se:.2g}"
            measured = "KL is not finite," if kl is None else f"KL {kl:.3g}{error} is"
            words.append(f"{measured} above --max-kl {self.max_kl:g}")
        if self.max_drift is not None and drift > self.max_drift:
            words.append(f"||D|| {drift:.4g} is above --max-drift {self.max_drift:g}")
        return " and ".join(words) or None

    def told(self, back: Back) -> str:
        """Return in words why steps were taken back, and how the run went on."""
        above = self.above(back.kl, back.kl_se, back.drift)
        to = f"step {back.to}" if back.to else "the base model"
        decays = f"decay {back.was:.3g} -> {back.awd:.3g}"
        return f"step {back.step}: {above}: back to {to}, {decays}"


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Why a run ended that was above a budget too often."""

    step: int  # the best within after the base, whose model it keeps; 0 where there is none
    at: int  # the last, which was above
    above: str
    decays: tuple[float, ...]  # with which it went on before

    def __str__(self) -> str:
        decays = ", ".join(f"{decay:.3g}" for decay in self.decays)
        return f"step {self.at}: {self.above}, also with the decays {decays}"
