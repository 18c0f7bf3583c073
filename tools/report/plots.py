# SPDX-License-Identifier: Apache-2.0
"""Draws the figures of the report from its CSV files."""

import matplotlib.ticker
import matplotlib.pyplot as plt

import data
import style

WIDTH = 8.6  # inches: 826 pixels, the width of a page on GitHub
BUDGET_MB = 128  # of the image session


def one_of(rows, **wanted):
    """The rows that have all these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def in_order(subjects):
    """Without repetition, in the order of style.SUBJECTS."""
    wanted = set(subjects)
    return [subject for subject in style.SUBJECTS if subject in wanted]


def spread(positions, distance):
    """Moves positions apart, as little as it takes, so that labels there don't overlap."""
    order = sorted(range(len(positions)), key=positions.__getitem__)
    groups = [[positions[i], [i]] for i in order]  # the centre of each group, and who is in it
    merged = True
    while merged:
        merged = False
        for lower, upper in zip(groups, groups[1:]):
            needed = distance * (len(lower[1]) + len(upper[1])) / 2
            if upper[0] - lower[0] < needed - 1e-9:
                members = lower[1] + upper[1]
                centre = sum(positions[i] for i in members) / len(members)
                at = groups.index(lower)
                groups[at : at + 2] = [[centre, members]]
                merged = True
                break
    placed = list(positions)
    for centre, members in groups:
        for place, i in enumerate(members):
            placed[i] = centre + distance * (place - (len(members) - 1) / 2)
    return placed


def label_ends(axes, ends, size=8.5, suffix=None):
    """Writes each subject's name to the right of where its line ends."""
    axes.figure.canvas.draw()  # settles the scales
    height = axes.get_window_extent().height
    to_display = lambda y: axes.transData.transform((1, y))[1] - axes.get_window_extent().y0
    positions = [to_display(y) for _, y in ends]
    placed = spread(positions, size * 1.25 / 72 * axes.figure.dpi)
    for (subject, _), y in zip(ends, placed):
        text = style.name(subject) + (suffix(subject) if suffix else "")
        axes.annotate(
            text, (1, y / height), xycoords="axes fraction", xytext=(8, 0),
            textcoords="offset points", va="center", fontsize=size, color=style.colour(subject),
            fontweight="bold" if "Large" in text or text == "weakcache" else "normal",
            annotation_clip=False,
        )


# --- The image session -----------------------------------------------------------------------------


def image_session(samples):
    figure, axes = plt.subplots(figsize=(WIDTH, 3.6))
    summary = {row["store"]: row for row in data.session_summary(samples)}
    ends = []
    for store in in_order(row["store"] for row in samples):
        live = [int(row["live_bytes"]) / 1e6 for row in one_of(samples, store=store)[:-1]]
        look = style.line(store) | {"marker": ""}
        axes.plot(range(1, len(live) + 1), live, drawstyle="steps-post", **look)
        ends.append((store, live[-1]))
    axes.set(xlim=(0, len(live)), ylim=(0, None), xlabel="look-ups of the session so far")
    axes.set_title("Live decoded images, MB")
    axes.axhline(BUDGET_MB, color=style.FAINT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
    axes.annotate(f"budget, {BUDGET_MB} MB", (64, BUDGET_MB), xytext=(0, 3), fontsize=8,
                  textcoords="offset points", color=style.FAINT)
    label_ends(axes, ends, suffix=lambda store: f": {summary[store]['decodes']} decoded")
    figure.subplots_adjust(left=0.055, right=0.73, top=0.91, bottom=0.135)
    return figure


# --- Hit ratios ------------------------------------------------------------------------------------


def hit_ratio(rows):
    traces = sorted({row["trace"] for row in rows})
    policies = in_order(row["policy"] for row in rows)
    figure, grid = plt.subplots(2, 3, figsize=(WIDTH, 5.4))
    for axes, trace in zip(grid.flat, traces):
        shares = list(dict.fromkeys(row["share"] for row in one_of(rows, trace=trace)))
        for policy in policies:
            ratios = [float(r["objects"]) for r in one_of(rows, trace=trace, policy=policy)]
            look = style.line(policy)
            axes.plot(range(len(shares)), ratios, label=style.name(policy), **look)
        axes.set_xticks(range(len(shares)), shares, fontsize=8)
        axes.set_ylim(0, None)
        percent = matplotlib.ticker.PercentFormatter(1, decimals=0, symbol=" %")
        axes.yaxis.set_major_formatter(percent)
        axes.set_title(trace)
    for axes in list(grid.flat)[len(traces) :]:
        axes.axis("off")
    is_real = "%" in rows[0]["share"]
    whole = "all distinct objects" if is_real else "what the trace is meant for"
    grid[1][0].set_xlabel(f"capacity, of {whole}", loc="left")
    handles, labels = grid[0][0].get_legend_handles_labels()
    order = [labels.index(style.name(p)) for p in ("belady", *policies[:-1])]
    legend = grid.flat[5].legend(
        [handles[i] for i in order], [labels[i] for i in order], loc="center left",
        title="Requests that hit", alignment="left", fontsize=9, labelspacing=0.6,
        bbox_to_anchor=(0, 0.5),
    )
    legend.get_title().set_fontweight("bold")
    figure.subplots_adjust(left=0.055, right=0.985, top=0.945, bottom=0.09, wspace=0.2, hspace=0.3)
    return figure


# --- Speed -----------------------------------------------------------------------------------------


def times(rows, program, pattern):
    """The median time of each subject, by the rest of a benchmark's name that follows it."""
    operation, _, rest = pattern.partition("*")
    found = {}
    for row in one_of(rows, program=program, figure="time_ns"):
        name = row["benchmark"]
        if name.startswith(operation) and name.endswith(rest):
            subject = name[len(operation) : len(name) - len(rest)]
            if "/" not in subject:
                found[subject] = float(row["median"])
    return found


PANELS = [
    ("WeakValueMap", "weak_value_map", "get_hit/*/{}", [1000, 100_000, 1_000_000]),
    ("ConcurrentWeakValueMap", "concurrent_weak_value_map", "get_hit/*/{}/threads:1",
     [1000, 100_000, 1_000_000]),
    ("LargeObjectCache", "large_object_cache", "hit16/*/{}/threads:1", [1000, 100_000]),
]


def hit_latency(rows):
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 8.4))
    for axes, (title, program, pattern, sizes) in zip(panels, PANELS):
        by_size = [times(rows, program, pattern.format(size)) for size in sizes]
        subjects = in_order(by_size[0])
        for subject in subjects:
            axes.plot(sizes, [of[subject] for of in by_size], **style.line(subject))
        axes.set(xscale="log", yscale="log", xlim=(800, 1.12 * sizes[-1]))
        axes.set_xticks(sizes, [*(f"{size:,}" for size in sizes[:-1]), f"{sizes[-1]:,} entries"])
        axes.yaxis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda y, _: f"{y:g}"))
        axes.yaxis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
        axes.minorticks_off()
        axes.set_title(f"{title}: a hit on one thread, ns")
        figure.subplots_adjust(left=0.065, right=0.75, top=0.965, bottom=0.045, hspace=0.32)
        label_ends(axes, [(subject, by_size[-1][subject]) for subject in subjects])
    return figure


def throughput(rows):
    figure, panels = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), gridspec_kw={"height_ratios": [7, 5]}
    )
    for axes, (title, program, pattern) in zip(panels, [
        ("ConcurrentWeakValueMap", "concurrent_weak_value_map", "get_hit/*/100000/threads:{}"),
        ("LargeObjectCache", "large_object_cache", "hit16/*/100000/threads:{}"),
    ]):
        one, two = (times(rows, program, pattern.format(threads)) for threads in (1, 2))
        subjects = in_order(one)
        for place, subject in enumerate(subjects):
            for offset, of, alpha in ((-0.2, one, 0.5), (0.2, two, 1)):
                millions = 1000 / of[subject]
                axes.barh(place + offset, millions, 0.36, color=style.colour(subject), alpha=alpha)
                axes.annotate(f"{millions:.1f}", (millions, place + offset), xytext=(3, 0),
                              textcoords="offset points", va="center", fontsize=7.5)
        axes.set_yticks(range(len(subjects)), map(style.name, subjects), fontsize=8.5)
        finish_bars(axes, subjects)
        axes.set_title(f"{title}: million hits a second on one thread (pale) and on two")
    figure.subplots_adjust(left=0.235, right=0.96, top=0.945, bottom=0.055, hspace=0.3)
    return figure


def finish_bars(axes, subjects):
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    for label, subject in zip(axes.get_yticklabels(), subjects):
        label.set_color(style.colour(subject))


# --- Deaths ----------------------------------------------------------------------------------------


def figure_of(rows, benchmark, figure):
    return {
        row["benchmark"].split("/")[1]: float(row["median"])
        for row in rows
        if row["figure"] == figure and row["benchmark"].startswith(benchmark)
    }


def duration(nanoseconds):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{float(f'{nanoseconds / size:.3g}'):g} {unit}"
    return f"{nanoseconds:.0f} ns"


def mass_expiry(rows):
    longest = figure_of(rows, "mass_expiry/", "longest_always_ns")
    subjects = in_order(longest)
    figure, axes = plt.subplots(figsize=(WIDTH, 2.7))
    for place, subject in enumerate(subjects):
        axes.barh(place, longest[subject], 0.66, color=style.colour(subject))
        axes.annotate(duration(longest[subject]), (longest[subject], place), xytext=(4, 0),
                      textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(subjects)), map(style.name, subjects), fontsize=8.5)
    axes.set(xscale="log", xlim=(1e3, 2e9))
    axes.set_xticks([1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9],
                    ["1 µs", "10 µs", "100 µs", "1 ms", "10 ms", "100 ms", "1 s"])
    axes.minorticks_off()
    finish_bars(axes, subjects)
    axes.set_title("The longest operation while 1,000,000 of 2,000,000 objects die")
    figure.subplots_adjust(left=0.235, right=0.96, top=0.9, bottom=0.1)
    return figure


def memory(rows):
    sizes = ["1000", "1500", "70000", "100000", "700000", "1000000"]
    dead = {size: {} for size in sizes}
    for row in one_of(rows, figure="bytes_per_expired_entry"):
        _, subject, size = row["benchmark"].split("/")
        dead[size][subject] = float(row["median"])
    subjects = in_order(dead[sizes[0]])
    figure, axes = plt.subplots(figsize=(WIDTH, 2.5))
    for place, subject in enumerate(subjects):
        values = [dead[size][subject] for size in sizes]
        axes.barh(place, max(values), 0.66, color=style.colour(subject))
        axes.annotate(f"{min(values):.0f} to {max(values):.0f} bytes", (max(values), place),
                      xytext=(4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(subjects)), map(style.name, subjects), fontsize=8.5)
    axes.set_xlim(0, 1.2 * max(max(of.values()) for of in dead.values()))
    finish_bars(axes, subjects)
    axes.set_title("Bytes that a dead object of 128 bytes and its entry take until a purge")
    figure.subplots_adjust(left=0.235, right=0.96, top=0.89, bottom=0.1)
    return figure


# Each figure with the CSV file that it is drawn from, and what it shows, for those who can't see it.
FIGURES = {
    "image_session": (image_session, "image_session",
                      "Live bytes after each look-up of the image session, for five stores"),
    "hit_ratio": (hit_ratio, "hit_ratio", "Hit ratio by capacity, for each trace and policy"),
    "hit_latency": (hit_latency, "speed", "Time of a hit by the number of entries"),
    "throughput": (throughput, "speed", "Hits a second on one and two threads"),
    "mass_expiry": (mass_expiry, "mass_expiry",
                    "The longest operation while a million objects die, on a logarithmic axis"),
    "memory": (memory, "memory", "Bytes of a dead object and its entry"),
}


def draw_all(folder=data.REPORT):
    style.use()
    for name, (draw, source, description) in FIGURES.items():
        rows = data.read(source, folder)
        if rows is not None:
            style.save(draw(rows), folder / f"{name}.svg", description)
