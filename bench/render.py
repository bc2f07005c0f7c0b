"""Files of results in, one table and two pictures out. No torch: any machine can draw what another
measured.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from paperlib.basics.files import write_atomically

from .levers import COLUMNS as COLUMNS_OF_LEVERS
from .levers import brought
from .measure import Row, exponent, ratios, spread
from .store import read_all

STYLE = {
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "savefig.dpi": 120,
    "axes.axisbelow": True,
    "font.size": 9,
}
OURS, PLAIN, LIMIT = "#2a6f97", "#bc6c25", "#606c38"
PANELS = ("scoring", "training", "many")
INTRODUCTION = """# Speed

Written by `python -m bench` from the JSON files beside this one; `python -m bench render` writes
it anew without torch.

Every rate is the median of its rounds, least and greatest in brackets; more is better. Contenders
take turns within each round, and each ratio is the median of the ratios within the rounds.
**times the baseline**: how many times as fast as the plain code it is compared with
(`bench/baseline.py`, the faster number of workers). **limit / it**: how many times as fast the same
machine would be if nothing cost anything but the bare networks on ready batches (1 is the limit),
run the best way known: eager with the channels last, or compiled with folded BatchNorms and packed
weights, whichever is faster in that round. For GFLOP/s, the limit is the fastest of several matrix
products and a big convolution, for GB/s a big copy. A machine without rows "at best" was measured
before these rows were: its limit is the eager network, and one matrix product.

![rates](bench.png)
"""
LEVERS = """## Lever by lever

Times as fast as the same work without it, in the same rounds; what was expected was written down
before it was measured.

"""


def number(value: float) -> str:
    """Three significant digits, no exponent.

    >>> number(1234.5), number(12.345), number(0.0123456)
    ('1,230', '12.3', '0.0123')
    """
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:#.3g}"


def with_range(three: Sequence[float]) -> str:
    """(median, least, greatest) as one cell.

    >>> with_range((2.0, 1.0, 3.0))
    '2.00 (1.00 to 3.00)'
    """
    median, least, greatest = map(number, three)
    return median if least == greatest else f"{median} ({least} to {greatest})"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in GitHub's Markdown."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def rows_of(suite: dict[str, Any]) -> dict[str, Row]:
    """The rows of a suite by name. Raises ValueError if one is compared with a row that is not
    there.
    """
    rows = {row.name: row for row in map(Row.from_json, suite.get("rows", ()))}
    for row in rows.values():
        for other in (row.baseline, row.limit):
            if other and other not in rows:
                raise ValueError(
                    f"row {row.name!r} is compared with {other!r}, which is not in its suite"
                )
    return rows


def line(row: Row, rows: dict[str, Row]) -> list[str]:
    """name, rate, unit, times the baseline, limit / it, target: cells of the tables."""
    return [
        row.name,
        with_range(spread(row.rounds)),
        row.unit,
        with_range(ratios(row.rounds, rows[row.baseline].rounds)) if row.baseline else "",
        with_range(ratios(rows[row.limit].rounds, row.rounds)) if row.limit else "",
        row.target,
    ]


COLUMNS = ["row", "rate", "unit", "times the baseline", "limit / it", "target"]


def table(files: Sequence[dict[str, Any]]) -> str:
    """The whole README.md."""
    parts = [INTRODUCTION]
    short = [
        [_machine(file), name, *line(row, rows)]
        for file, name, suite in _suites(files)
        for rows in (rows_of(suite),)
        for row in rows.values()
        if row.headline
    ]
    parts.append("## In short\n\n" + markdown(["machine", "suite", *COLUMNS], short))
    curves = [
        [
            _machine(file),
            c["what"],
            ", ".join(map(str, c["sizes"])),
            ", ".join(number(s[0]) for s in c["seconds"]),
            f"{exponent(c['sizes'], [s[0] for s in c['seconds']]):.2f}",
            ", ".join(number(m / 1e6) for m in c["memory"]),
            _memory_exponent(c),
        ]
        for file, _, suite in _suites(files)
        for c in suite.get("curves", ())
    ]
    if curves:
        header = [
            "machine",
            "what",
            "N",
            "seconds",
            "exponent",
            "peak memory, MB over the imports",
            "exponent",
        ]
        parts.append(
            "## Growth\n\nExponents are slopes of the log-log lines: 1 is linear, 0 constant.\n\n"
            + markdown(header, curves)
            + "\n![growth](scaling.png)\n"
        )
    if levers := _levers(files):
        parts.append(LEVERS + markdown(["machine", *COLUMNS_OF_LEVERS], levers))
    for file, name, suite in _suites(files):
        rows = rows_of(suite)
        if rows:
            parts.append(
                f"## {_machine(file)}: {name}\n\n"
                f"{_circumstances(suite)}\n\n"
                + markdown(COLUMNS, [line(row, rows) for row in rows.values()])
            )
        if suite.get("memory"):
            parts.append(
                markdown(
                    ["peak memory over the imports", "images", "host, MB", "device, MB"],
                    [
                        [
                            m["name"],
                            f"{m['images']:,}",
                            number(m["host_bytes"] / 1e6),
                            number(m["device_bytes"] / 1e6),
                        ]
                        for m in suite["memory"]
                    ],
                )
            )
    return "\n".join(parts)


def _levers(files: Sequence[dict[str, Any]]) -> list[list[str]]:
    return [
        [_machine(file), lever.name, lever.expected, with_range(times), lever.kept]
        for file in files
        for lever, times in brought({n: rows_of(suite) for n, suite in file["suites"].items()})
    ]


def _machine(file: dict[str, Any]) -> str:
    return f"{file['device']}, {file['threads']} threads"


def _suites(
    files: Sequence[dict[str, Any]],
) -> Iterator[tuple[dict[str, Any], str, dict[str, Any]]]:
    return ((file, name, suite) for file in files for name, suite in file["suites"].items())


def _memory_exponent(curve: dict[str, Any]) -> str:
    return f"{exponent(curve['sizes'], curve['memory']):.2f}" if min(curve["memory"]) > 0 else ""


def _circumstances(suite: dict[str, Any]) -> str:
    where = suite["environment"]
    small = " **A test's sizes: no measurement.**" if where["small"] else ""
    settings = ", ".join(
        f"{name} {number(v) if isinstance(v, float) else v}"
        for name, v in suite["settings"].items()
    )
    used = ", ".join(f"{i} for {p}" for p, i in where.get("instructions", {}).items())
    return (
        f"{where['finished']}, commit "
        f"`{where['commit'][:12]}{'+' * where['commit'].endswith('+')}`, torch "
        f"{where['torch']}, "
        f"Python {where['python']}, {where['cores']} cores, {where['repetitions']} rounds; "
        f"{f'convolutions by {used}; ' * bool(used)}{settings}.{small}"
    )


# ----------------------------------------------------------------------------------------- pictures


def rates(files: Sequence[dict[str, Any]]) -> Figure:
    """A machine a row of panels, a line for each of our rates: we, the baseline, and the limit of
    the machine.
    """
    files = [f for f in files if any(_shown(f, panel) for panel in PANELS)]
    with plt.rc_context(STYLE):
        heights = [_height(file) for file in files]
        figure = plt.figure(figsize=(16, sum(heights) + 0.5), layout="constrained")
        for subfigure, file in zip(
            figure.subfigures(len(files), 1, height_ratios=heights, squeeze=False)[:, 0],
            files,
            strict=True,
        ):
            subfigure.suptitle(_machine(file), fontweight="bold")
            left, right = subfigure.subplots(1, 2, width_ratios=(1, 1.1), squeeze=False)[0]
            below = right.get_subplotspec().subgridspec(
                2, 1, height_ratios=[max(1, len(_shown(file, p))) for p in PANELS[1:]]
            )
            right.remove()
            for name, axis in zip(PANELS, (left, *map(subfigure.add_subplot, below)), strict=True):
                _panel(axis, file, name)
    plt.close(figure)
    return figure


def _shown(file: dict[str, Any], suite: str) -> list[Row]:
    """Our rates in images per second, and the baseline's that are no other row's partner."""
    rows = rows_of(file["suites"].get(suite, {}))
    return [
        row
        for row in rows.values()
        if row.role == "ours" and row.unit == "images/s" and (row.baseline or row.limit)
    ]


def _height(file: dict[str, Any]) -> float:
    return 1.5 + 0.3 * max(
        len(_shown(file, "scoring")), 5 + len(_shown(file, "training")) + len(_shown(file, "many"))
    )


def _panel(axis: plt.Axes, file: dict[str, Any], suite: str) -> None:
    shown = _shown(file, suite)
    if not shown:
        axis.text(
            0.5,
            0.5,
            f"{suite}: not measured here",
            ha="center",
            va="center",
            transform=axis.transAxes,
            color="0.5",
        )
        axis.set_axis_off()
        return
    rows = rows_of(file["suites"][suite])
    for y, row in enumerate(shown):
        ours = spread(row.rounds)
        for name, colour, marker, face in (
            (row.baseline, PLAIN, "s", "white"),
            (row.limit, LIMIT, "|", LIMIT),
        ):
            if name:
                other = spread(rows[name].rounds)
                axis.plot([ours[0], other[0]], [y, y], color=colour, lw=1, alpha=0.4, zorder=1)
                axis.plot(other[1:], [y, y], color=colour, lw=3, alpha=0.35, solid_capstyle="butt")
                axis.plot(
                    other[0],
                    y,
                    marker,
                    color=colour,
                    mfc=face,
                    ms=16 if marker == "|" else 6,
                    mew=2 if marker == "|" else 1.4,
                )
        axis.plot(ours[1:], [y, y], color=OURS, lw=3, alpha=0.45, solid_capstyle="butt")
        axis.plot(ours[0], y, "o", color=OURS, ms=7)
        texts = [f"{line(row, rows)[3].split()[0]} x plain"] if row.baseline else []
        texts += [f"limit / {line(row, rows)[4].split()[0]}"] if row.limit else []
        axis.annotate(
            ",  ".join(texts),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=8,
            color="0.25",
        )
    axis.set(
        xscale="log", yticks=range(len(shown)), ylim=(len(shown) - 0.4, -0.6), xlabel="images/s"
    )
    axis.set_yticklabels([row.name.replace(", float32", "") for row in shown])
    _log_ticks(axis.xaxis)
    axis.set_title(suite, loc="left")
    axis.grid(axis="y", visible=False)
    if suite == PANELS[0] or PANELS[0] not in file["suites"]:
        marks = (
            ("o", OURS, OURS, "ours"),
            ("s", PLAIN, "white", "plain baseline"),
            ("|", LIMIT, LIMIT, "limit of the machine"),
        )
        handles = [
            plt.Line2D([], [], color=c, marker=m, mfc=f, ls="", mew=1.6, label=text)
            for m, c, f, text in marks
        ]
        axis.legend(
            handles=handles, loc="lower left", bbox_to_anchor=(0.1, 1.0), ncols=3, frameon=False
        )


def growth(files: Sequence[dict[str, Any]]) -> Figure:
    """Seconds above, peak memory below, a column a curve; fitted exponents in the legends."""
    names = list(
        dict.fromkeys(c["name"] for _, _, suite in _suites(files) for c in suite.get("curves", ()))
    )
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, len(names), figsize=(3.8 * len(names), 6.6), squeeze=False, layout="constrained"
        )
        for column, name in zip(axes.T, names, strict=True):
            for k, (file, _, suite) in enumerate(_suites(files)):
                for curve in (c for c in suite.get("curves", ()) if c["name"] == name):
                    _curve(column, curve, f"{file['device']}, {file['threads']}", f"C{k}")
            for axis, label in zip(
                column, ("seconds", "peak memory, MB over the imports"), strict=True
            ):
                axis.set(xscale="log", yscale="log", xlabel=name, ylabel=label)
                axis.set_xticks(
                    curve_sizes := sorted(
                        {
                            n
                            for _, _, s in _suites(files)
                            for c in s.get("curves", ())
                            if c["name"] == name
                            for n in c["sizes"]
                        }
                    )
                )
                axis.set_xticklabels([f"{n:,}" for n in curve_sizes])
                axis.xaxis.set_minor_locator(NullLocator())
                low, high = axis.get_ylim()
                axis.set_ylim(
                    min(low, high / 6), max(high, low * 6) * 1.6
                )  # so that what is constant looks it
                _log_ticks(axis.yaxis)
                if axis.get_legend_handles_labels()[0]:
                    axis.legend(fontsize=8, loc="upper left")
    plt.close(figure)
    return figure


def _log_ticks(axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... as plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_locator(NullLocator())


def _curve(column: Sequence[plt.Axes], curve: dict[str, Any], machine: str, colour: str) -> None:
    sizes, seconds = curve["sizes"], curve["seconds"]
    median = [s[0] for s in seconds]
    bars = [[s[0] - s[1] for s in seconds], [s[2] - s[0] for s in seconds]]
    column[0].errorbar(
        sizes,
        median,
        yerr=bars,
        fmt="o-",
        color=colour,
        ms=5,
        capsize=2,
        label=f"{machine}: N^{exponent(sizes, median):.2f}",
    )
    if min(curve["memory"]) > 0:
        column[1].plot(
            sizes,
            [m / 1e6 for m in curve["memory"]],
            "s-",
            color=colour,
            ms=5,
            label=f"{machine}: N^{_memory_exponent(curve)}",
        )


def write(folder: Path) -> list[Path]:
    """Write README.md, bench.png and scaling.png from the JSON files of a folder; returns what was
    written.

    Raises FileNotFoundError if there are none.
    """
    files = read_all(folder)
    if not files:
        raise FileNotFoundError(
            f"{folder} holds no results of the benchmark: run python -m bench first"
        )
    write_atomically(folder / "README.md", table(files))
    written = [folder / "README.md"]
    pictures = {}
    if any(_shown(file, panel) for file in files for panel in PANELS):
        pictures["bench.png"] = rates(files)
    if any(suite.get("curves") for _, _, suite in _suites(files)):
        pictures["scaling.png"] = growth(files)
    for name, figure in pictures.items():
        figure.savefig(folder / name, metadata={"Software": None})
        written.append(folder / name)
    return written
