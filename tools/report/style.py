# SPDX-License-Identifier: Apache-2.0
"""What all figures of the report share: names, colours and markers, and how they are written.

Each figure has a background of its own. It and all colours follow the reader's colour scheme, by a
style sheet in the SVG: so a figure is legible on any page, and without style sheets it is light.
"""

import re

import matplotlib

matplotlib.use("svg")

import matplotlib.pyplot as plt

# Each colour for light and for dark pages. The light one stands in the SVG.
INK = "#1f2328"
FAINT = "#59636e"
GRID = "#d8dee4"
PAPER = "#ffffff"
DARK = {
    INK: "#e6edf3", FAINT: "#9198a1", GRID: "#30363d", PAPER: "#0d1117",
    "#0969da": "#58a6ff", "#bc4c00": "#f0883e", "#8250df": "#bc8cff", "#1a7f37": "#4ac26b",
    "#bf3989": "#f778ba", "#9a6700": "#d4a72c", "#1b7c83": "#56d4dd", "#6e7781": "#8c959f",
    "#a40e26": "#ff8182",
}
BLUE, ORANGE, PURPLE, GREEN, PINK, AMBER, TEAL, GREY, RED = list(DARK)[4:]

# A subject has one name, colour and marker in all figures, by its name in the CSV files.
SUBJECTS = {
    "weakcache": ("weakcache", BLUE, "o"),
    "large object cache": ("LargeObjectCache", BLUE, "o"),
    "weakcache_inserted": ("weakcache, inserted objects", TEAL, "s"),
    "weakcache_shared_ptr": ("weakcache, shared_ptr", PURPLE, "D"),
    "concurrent_map": ("weakcache, map alone", TEAL, "s"),
    "floor": ("floor", GREY, ""),
    "std_mutex_unordered_map": ("mutex + unordered_map", ORANGE, "v"),
    "absl_flat_hash_map": ("flat_hash_map, no lock", AMBER, "^"),
    "absl_mutex_flat_hash_map": ("absl::Mutex + flat_hash_map", PINK, "<"),
    "sharded_mutex_flat_hash_map": ("64 mutexes + flat_hash_map", GREEN, "P"),
    "tbb_concurrent_hash_map": ("tbb::concurrent_hash_map", RED, "X"),
    "mutex_lru": ("mutex + LRU", ORANGE, "v"),
    "rocksdb_lru": ("RocksDB LRU", AMBER, "^"),
    "rocksdb_hyper_clock": ("RocksDB HyperClock", GREEN, "P"),
    "tbb_lru": ("oneTBB LRU", RED, "X"),
    "no cache": ("no cache", RED, "X"),
    "strong map": ("strong map", GREEN, "P"),
    "weak map": ("weak_ptr map", PURPLE, "D"),
    "LRU": ("LRU", ORANGE, "v"),
    "lru": ("LRU", ORANGE, "v"),
    "arc": ("ARC", AMBER, "^"),
    "s3_fifo": ("S3-FIFO", GREEN, "P"),
    "sieve": ("SIEVE", PINK, "<"),
    "lirs": ("LIRS", PURPLE, "D"),
    "w_tiny_lfu": ("W-TinyLFU", TEAL, "s"),
    "belady": ("Belady: the best possible", GREY, ""),
}


def name(subject):
    return SUBJECTS[subject][0]


def colour(subject):
    return SUBJECTS[subject][1]


def line(subject):
    """How a subject's line is drawn: this library's stands out, and what is no peer is dashed."""
    _, colour_, marker = SUBJECTS[subject]
    ours = subject in ("weakcache", "large object cache")
    reference = subject in ("floor", "belady")
    return {
        "color": colour_, "marker": marker, "linewidth": 2.4 if ours else 1.2,
        "markersize": 5.5 if ours else 4.5, "zorder": 5 if ours else 3,
        "linestyle": (0, (4, 2)) if reference else "-",
    }


def use():
    plt.rcParams.update({
        "svg.fonttype": "path", "svg.hashsalt": "weakcache", "font.family": "DejaVu Sans",
        "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold",
        "axes.titlelocation": "left", "axes.edgecolor": GRID, "axes.labelcolor": FAINT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.6, "text.color": INK,
        "xtick.color": GRID, "ytick.color": GRID, "xtick.labelcolor": FAINT,
        "ytick.labelcolor": FAINT, "xtick.minor.bottom": False, "ytick.minor.left": False,
        "figure.facecolor": PAPER, "axes.facecolor": PAPER, "savefig.facecolor": PAPER,
        "legend.frameon": False,
    })


def save(figure, path, description):
    """Writes the SVG. The same figure is always the same file."""
    figure.savefig(path, metadata={"Date": None, "Creator": None, "Title": description})
    plt.close(figure)
    path.write_text(with_dark_colours(path.read_text(encoding="utf-8")), encoding="utf-8")


def with_dark_colours(svg):
    rules = "".join(
        f'[style*="{use}: {light}"]{{{use}:{dark}!important}}'
        for light, dark in DARK.items()
        for use in ("fill", "stroke")
        if f"{use}: {light}" in svg
    )
    sheet = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    svg = "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"
    return re.sub(r"(<svg [^>]*>\n)", lambda match: match[1] + sheet + "\n", svg, count=1)
