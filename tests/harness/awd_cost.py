"""What the decay costs: updates with and without it, in alternation, against whole steps.

    python tests/harness/awd_cost.py MODEL

MODEL is a folder or a .gguf file. The step is that of recipe conciseness-smollm2-135m: 12 members,
20 rows, up to 32 new tokens. Each round times one rollout of a member with its noise and reverting,
and one update without decay, with L1 and with L2, in an order that changes.
"""

import random
import statistics
import sys
import time
from dataclasses import replace

from esft.engine.members import population
from esft.engine.perturb import perturbed
from esft.recipe.settings import Anchor, Model, Recipe, Search, TaskSettings
from esft.tuning.session import open_session

ROUNDS = 7
DECAYS = {"none": (0.0, "l1"), "l1 0.01": (0.01, "l1"), "l2 10": (10.0, "l2")}


def main(model):
    """Print the seconds and the share of a step for every kind of drift."""
    for kind in ("float16", "int8", "float32"):
        session = open_session(
            Recipe(
                model=Model(id=model, device="cpu"),
                task=TaskSettings(name="conciseness", train=20, holdout=1, max_new_tokens=32),
                search=Search(seed=1, population=12, sigma=0.006, alpha=0.004),
                anchor=replace(Anchor(), drift=kind),
            )
        )
        measure(session, kind)


def measure(session, kind):
    """Print one kind's line."""
    search = session.recipe.search
    seconds = {name: [] for name in (*DECAYS, "member")}
    for number in range(1, ROUNDS + 2):
        members = population(search.seed, number, search.population)
        began = time.perf_counter()
        with perturbed(session.base.weights, members[0], search.sigma, session.base.drift):
            session.rollout.roll_out(session.train)
        taken = {"member": time.perf_counter() - began}
        for name in random.Random(number).sample(list(DECAYS), len(DECAYS)):
            awd, norm = DECAYS[name]
            began = time.perf_counter()
            session.base.drift.step(members, [1.0, -1.0] * 6, search.alpha, awd, norm)
            taken[name] = time.perf_counter() - began
        if number > 1:  # the first round warms up
            for name, value in taken.items():
                seconds[name].append(value)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    step = search.population * middle["member"] + middle["none"]
    print(
        f"drift {kind}: a member {middle['member']:.2f} s, so a step {step:.1f} s; updates: "
        + ", ".join(f"{name} {middle[name]:.2f} s" for name in DECAYS)
    )
    for name in DECAYS:
        if name != "none":
            more = [a - b for a, b in zip(seconds[name], seconds["none"], strict=True)]
            shares = sorted(100 * each / step for each in more)
            print(
                f"  {name}: {statistics.median(shares):+.2f} % of a step "
                f"({shares[0]:+.2f} to {shares[-1]:+.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main(sys.argv[1])
