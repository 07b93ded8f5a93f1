"""Parts of all benchmarks: pairs and images, runs in turn, medians, the report."""

import argparse
import json
import math
import random
import resource
import statistics
import sys
import time
from pathlib import Path

import torch

import pyro_vae_zoo as zoo
from pyro_vae_zoo.files import write_json
from pyro_vae_zoo.models.create import guide_options
from pyro_vae_zoo.runtime import hardware


def make(guide, device="cpu", **options):
    torch.manual_seed(0)
    if guide_options(guide).get("network") == "gated_mlp":
        options = {"network": "mlp"} | options  # as those by hand and NumPyro's are
    return zoo.create(guide, event_shape=(28, 28), **options).to(device)


def images(n, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(n, 28, 28, generator=generator) < 0.13).float().to(device)


def step(optimizer, loss):
    optimizer.zero_grad()
    loss().backward()
    optimizer.step()


def seconds(run, device):
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turn(runs, device, repeats, warmup=5, at_most=math.inf):
    """Seconds by name, of rounds each of which runs every contestant once.

    In another order in each round: who runs before, and what its threads and its data in
    the caches leave behind, is to hit all alike. After `at_most` seconds ten rounds are
    enough.
    """
    times = {name: [] for name in runs}
    shuffle = random.Random(0).sample
    begin = time.monotonic()
    for done in range(warmup + repeats):
        if done >= warmup + 10 and time.monotonic() - begin > at_most:
            break
        for name in shuffle(list(runs), len(runs)):
            times[name].append(seconds(runs[name], device))
    return {name: values[warmup:] for name, values in times.items()}


def summary(values, digits=3):
    quartiles = statistics.quantiles(values)
    q1, median, q3 = (round(1000 * q, digits) for q in quartiles)
    return {"milliseconds": median, "quartiles": [q1, q3]}


def ratio(values, base):
    return round(statistics.median(values) / statistics.median(base), 3)


def parser(doc, repeats):
    options = argparse.ArgumentParser(description=doc.split("\n")[0])
    options.add_argument("--repeats", type=int, default=repeats)
    options.add_argument("--out", type=Path)
    return options


def write(report, out, device="cpu", **more_hardware):
    """Add how the numbers came about; without `out`, print the hardware alone."""
    command = ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
    report["command"] = " ".join(command)
    report["hardware"] = hardware(torch.device(device)) | more_hardware
    if out:
        write_json(out, report)
    else:
        print(json.dumps(report["hardware"]))


def main(doc, time_rows, show, batch_size, repeats):
    """Time one batch, show the rows and write them; the numbers are the defaults."""
    options = parser(doc, repeats)
    options.add_argument("--batch-size", type=int, default=batch_size)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    rows = time_rows(args.batch_size, args.device, args.repeats)
    show(rows)
    write({"time": rows}, args.out, args.device)


def peak_memory():
    """The most bytes of memory that this program has had so far."""
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` of Linux is that of who started it, if it is more
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024)
