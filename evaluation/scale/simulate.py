"""How long the shards of a backfill take on 1, 8 and 64 GPUs that die and that are slow: a simulation of events.

As revector does it: a free worker takes the next shard; what a worker sealed before it died is kept, the rest of its
shard is taken up by the next free worker once Airflow has noticed (heartbeat timeout and retry delay); nobody helps a
slow worker with the shard that it has. Each run draws its deaths and its workers' speeds again.

Machines of one's own die more seldom than the default says: 2e-5 an hour (The Llama 3 Herd of Models, 2024, section
3.3.4: 419 unexpected interruptions of 16,384 GPUs in 54 days).
"""

from __future__ import annotations

import random
import sys
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import simpy

from evaluation.bench.common import Figure, machine, parser, write
from revector.indexing.backfill import PART_S

RESULT = Path(__file__).parent / "results" / "simulate.json"
PARTS_UNDER_WAY = 2
"""A death costs the part that is embedded and the one that is being sealed."""

OPTIONS = {
    "gpu-hours": (333.3, "of work in all; 10^9 documents of 200 tokens at 10 million tokens a minute"),
    "shard-minutes": (45.0, "of work in one shard"),
    "deaths-per-hour": (2.7e-4, "of one worker: 20 %% a month, the worst class of the AWS Spot Instance Advisor"),
    "noticed-s": (300.0, "until a death is noticed: Airflow's scheduler.task_instance_heartbeat_timeout"),
    "retry-s": (5.0, "from there until the shard may be taken up again: the retry delay in airflow/factory.py"),
    "replaced-s": (300.0, "until a dead worker's machine is replaced (assumed)"),
    "task-s": (15.0, "to start a task and load the model (assumed; imports take 6 s here)"),
    "spread": (0.08, "deviation of speed among workers (Sinha et al., Not All GPUs Are Created Equal, SC 2022: 8 %%)"),
    "slow-share": (0.02, "of workers that are outliers (assumed)"),
    "slowness": (1.5, "times as long on an outlier (the same paper: up to 1.5)"),
}


@dataclass(slots=True)
class _Shard:
    left_s: float


def main(argv: Sequence[str] | None = None) -> int:
    """Simulate every number of GPUs, write figures and chart."""
    options = parser("evaluation.scale.simulate", __doc__)
    options.set_defaults(output=RESULT)
    options.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], metavar="N")
    options.add_argument("--runs", type=int, default=1_000)
    options.add_argument("--seed", type=int, default=0)
    for name, (value, meaning) in OPTIONS.items():
        options.add_argument(f"--{name}", type=float, default=value, help=f"{meaning} (default: %(default)s)")
    chosen = options.parse_args(argv)
    before, found = machine(), {}
    for gpus in chosen.gpus:
        hours = [wall_hours(chosen, gpus, random.Random(f"{chosen.seed} {gpus} {run}")) for run in range(chosen.runs)]
        found[gpus] = np.array(hours)
    _chart(found, chosen.gpu_hours, chosen.output.with_suffix(".svg"))
    given = " ".join(
        f"--{name} {getattr(chosen, name.replace('-', '_')):g}"
        for name, (value, _) in OPTIONS.items()
        if getattr(chosen, name.replace("-", "_")) != value
    )
    gpus = " ".join(map(str, chosen.gpus))
    command = f"python -m evaluation.scale.simulate --gpus {gpus} --runs {chosen.runs} --seed {chosen.seed} {given}"
    return write(chosen.output, command.strip(), before, list(_figures(found, chosen)))


def wall_hours(chosen: Namespace, gpus: int, numbers: random.Random) -> float:
    """Return the wall hours of one run on ``gpus`` workers."""
    env, shards = simpy.Environment(), max(1, round(chosen.gpu_hours * 60 / chosen.shard_minutes))
    waiting, ended = simpy.Store(env), env.event()
    waiting.items = [_Shard(chosen.gpu_hours * 3_600 / shards) for _ in range(shards)]
    open_shards = [shards]

    def again(shard: _Shard) -> Generator[Any, Any, None]:
        yield env.timeout(chosen.noticed_s + chosen.retry_s)
        yield waiting.put(shard)

    def worker() -> Generator[Any, Any, None]:
        slow = max(0.5, numbers.gauss(1.0, chosen.spread))
        slow *= chosen.slowness if numbers.random() < chosen.slow_share else 1.0
        dies_s = numbers.expovariate(chosen.deaths_per_hour / 3_600) if chosen.deaths_per_hour else float("inf")
        while True:
            shard = yield waiting.get()
            needed_s = chosen.task_s + shard.left_s * slow
            if env.now + needed_s <= dies_s:
                yield env.timeout(needed_s)
                open_shards[0] -= 1
                if not open_shards[0]:
                    ended.succeed()
                continue
            alive_s = max(0.0, dies_s - env.now)  # one that died while it was idle dies with its next shard
            yield env.timeout(alive_s)
            sealed_s = (alive_s - chosen.task_s) / slow - PARTS_UNDER_WAY * PART_S
            shard.left_s -= min(shard.left_s, max(0.0, sealed_s))
            env.process(again(shard))
            yield env.timeout(chosen.replaced_s)
            dies_s = env.now + numbers.expovariate(chosen.deaths_per_hour / 3_600)

    for _ in range(gpus):
        env.process(worker())
    env.run(until=ended)
    return float(env.now) / 3_600


def _figures(found: dict[int, npt.NDArray[np.float64]], chosen: Namespace) -> Iterator[Figure]:
    for name in OPTIONS:
        yield Figure(f"assumed: {name}", getattr(chosen, name.replace("-", "_")), OPTIONS[name][1].replace("%%", "%"))
    for gpus, hours in found.items():
        ideal = chosen.gpu_hours / gpus
        p50, p95 = np.percentile(hours, [50, 95])
        yield Figure(f"{gpus} GPUs: wall time, p50", round(float(p50), 3), "h")
        yield Figure(f"{gpus} GPUs: wall time, p95", round(float(p95), 3), "h")
        yield Figure(f"{gpus} GPUs: p50 against an even share without deaths", round(float(p50 / ideal), 4), "times")
        yield Figure(f"{gpus} GPUs: p95 against it", round(float(p95 / ideal), 4), "times")


def _chart(found: dict[int, npt.NDArray[np.float64]], gpu_hours: float, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "revector"
    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for gpus, hours in found.items():
        ordered = np.sort(hours) / (gpu_hours / gpus)
        axes.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), where="post", label=f"{gpus} GPUs")
    axes.set_xlabel("wall time, times an even share without deaths")
    axes.set_ylabel("share of runs")
    axes.set_title(f"{gpu_hours:g} GPU-hours of shards, with deaths and slow workers")
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
