"""Colours, markers and line styles of the figures; none is told apart by colour alone."""

from typing import Final

# Okabe and Ito's palette for colour-blind readers (Color Universal Design, 2008) without yellow, lost on white.
COLOURS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#333333", "#7A5195")
# Paul Tol's muted scheme, also safe: a kind of message must not look like a policy.
KIND_COLOURS: Final = ("#332288", "#88CCEE", "#44AA99", "#999933", "#DDCC77", "#CC6677", "#882255", "#AA4499")
MARKERS: Final = "osD^vPX*"
DASHES: Final = ("-", "--", "-.", ":")
STYLE: Final = {
    "font.size": 9.5,
    "text.parse_math": False,  # names of policies are the user's, and may hold a dollar sign
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": "#333b44",
    "xtick.color": "#55606b",
    "ytick.color": "#55606b",
    "axes.grid": True,
    "grid.color": "#e6e9ed",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "tandemrec",
    "svg.fonttype": "path",
}
