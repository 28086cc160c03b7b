"""Plots of results with matplotlib: PNG bytes from plain values."""

from __future__ import annotations

import importlib.util
import io

from benchmarks.result import Plot

HOW = "matplotlib is not installed, so there are no plots: pip install '.[bench]'"


def is_possible() -> bool:
    """Tell whether there is something to draw with."""
    return importlib.util.find_spec("matplotlib") is not None


def png(plot: Plot) -> bytes:
    """Draw a plot; returns a PNG file."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second and 40 MB that only drawing needs
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 - likewise

    figure = Figure(figsize=(7.2, 4.0), dpi=110, layout="constrained")
    axes = figure.add_subplot()
    for name, xs, ys in plot.series:
        if plot.kind == "points":
            axes.plot(xs, ys, ".", markersize=2 if plot.is_log_y else 5, color="crimson" if name == "failed" else None, label=name)
        else:
            axes.plot(xs, ys, marker="o" if len(xs) < 20 else "", markersize=4, linewidth=1.6, label=name)
    if plot.is_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    if plot.x == "clients":
        ticks = plot.series[0][1]
        axes.set_xticks(list(ticks), [f"{tick:g}" for tick in ticks])
    top = axes.get_ylim()[1]
    if plot.is_log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    else:
        axes.set_ylim(0, min(top, 101) if plot.y.startswith("%") else top)
    for number, (name, at) in enumerate(plot.marks):
        axes.axvline(at, color="black", linewidth=0.8, linestyle=(0, (4, 2 + number)))
        axes.text(at, 0.98 - 0.06 * number, f" {name}", transform=axes.get_xaxis_transform(), fontsize="small", va="top")
    axes.set_title(plot.title)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize="small", loc="lower left" if plot.marks else "best")
    out = io.BytesIO()
    figure.savefig(out, format="png")
    return out.getvalue()
