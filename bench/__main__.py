"""The command line: python -m bench [suite ...], or python -m bench render."""

import argparse
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .store import SUITES, merge

COSTS = {
    "scoring": (
        "one augmented pass of the teacher, against 22 plain ones and the bare "
        "teacher, as it is and compiled (7 minutes on 2 cores)"
    ),
    "training": (
        "a low-bit student with its teacher, against plain code and bare networks (13 minutes)"
    ),
    "many": "several students at once (9 minutes)",
    "losses": "a training step with each distillation loss, against plain KD (5 minutes)",
    "scaling": "cost and memory against images, augmentations, classes, students (2 minutes)",
    "render": "only draw the table and the pictures from the files that are there; needs no torch",
}


def _parser() -> argparse.ArgumentParser:
    listed = "\n".join(f"  {name:10}{text}" for name, text in COSTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Speed of this machine: our figures beside a plain baseline and beside its limit."
        ),
        epilog=f"suites:\n{listed}\n\nLet nothing else run meanwhile. Results go into one "
        "JSON file per device and number of\n"
        "threads; a suite that is run again replaces that suite alone.",
    )
    parser.add_argument(
        "suites",
        nargs="*",
        metavar="suite",
        help=f"among {', '.join(COSTS)} (default: all but render)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        help="of this process; 0 takes every core it may use (default)",
    )
    parser.add_argument(
        "--repetitions", type=int, default=5, help="rounds that are timed (default: 5)"
    )
    parser.add_argument(
        "--small", action="store_true", help="a test: digits, ResNet-8, seconds; not a measurement"
    )
    parser.add_argument(
        "--output", type=Path, help="folder (default: results/bench, build/bench with --small)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run suites and render; returns the exit status."""
    parser = _parser()
    args = parser.parse_args(arguments)
    for suite in args.suites:
        if suite not in COSTS:
            parser.error(f"unknown suite {suite!r}; known: {', '.join(COSTS)}")
    output = args.output or Path("build/bench" if args.small else "results/bench")
    suites = args.suites or list(SUITES)
    if suites != ["render"]:
        _measure(args, [suite for suite in SUITES if suite in suites], output)
    from .render import write

    for path in write(output):
        print(path)
    return 0


def _measure(args: argparse.Namespace, suites: Sequence[str], output: Path) -> None:
    import torch

    from paperlib.basics.machine import count_cores

    from .machine import Setting

    torch.set_num_threads(args.threads or count_cores())
    try:
        setting = Setting(args.device, torch.get_num_threads(), args.repetitions, args.small)
    except ValueError as error:
        sys.exit(f"failed: {error}")
    for suite in suites:
        began = time.perf_counter()

        def report(line: str, suite: str = suite, began: float = began) -> None:
            print(f"[{suite}, {time.perf_counter() - began:4.0f} s] {line}", flush=True)

        content = import_module(f".{suite}", __package__).run(setting, report)
        report(f"written to {merge(output, setting.environment(), suite, content)}")


if __name__ == "__main__":
    sys.exit(main())
