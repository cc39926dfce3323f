"""tradeoff.html: a sweep's accuracy against every cost, with a budget to move; one file that works from disk."""

import json
import os
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reports.holdings import HOLDINGS, HOLDINGS_NOTE, holding_rows
from reports.html import asset, content_policy, data_uri, write_whole
from reports.tradeoff_best import BEST, BEST_NOTE, EQUAL, best_rows
from reports.tradeoff_figures import tradeoff_figure
from reports.tradeoff_gains import GAINS, GAINS_NOTE, gain_rows
from reports.tradeoff_payload import payload, random_label
from reports.tradeoff_points import Points, load
from reports.tradeoff_readings import shares_defined
from reports.tradeoff_shares import BOUND_NOTE, any_unasked, recovered_rows, share_note, undefined_note
from reports.tradeoff_spent import SPENT, SPENT_NOTE, spent_rows
from simulation.sweep import folder as f
from simulation.sweep.folder import PAGE, Sweep

_SCRIPTS: Final = ("tradeoff.js", "tradeoff_view.js", "tradeoff_tables.js", "tradeoff_gains.js")
_STYLES: Final = ("page.css", "tradeoff.css")
_GLOSSARY: Final = {
    "Value": "Mean of the measure over a user's replayed steps, then over seeds, then over users. All policies are met "
    "by the same users.",
    "At a budget": "Linear between the two neighbouring points of the same policy, at what it really spent and not at "
    "what it was allowed. Up to 5 % beyond its outermost points their value holds; further away nothing is claimed. "
    "Never and always asking are no ends of another policy's line.",
    "Intervals": "95 %, percentile bootstrap over users: a drawn user comes with all its seeds and is the same for "
    "policy, never and always. Costs are held as measured.",
    "Recovered": "(policy − never) / (always − never): 0 % is never asking, 100 % always asking. Where always is "
    "hardly better than never (by less than 1 %, or not in the 95 % interval), the plain difference to never instead. "
    "Devices with other lists, or with candidates of their own, begin above 0 %: what they have without asking stands "
    "beside it.",
    "Of the gain": "(policy − never) / (bound − never) at the same request ratio. The bound knows which item comes "
    "next; it is held as measured. More than 100 % is possible, see the bound.",
    "Bound": "The best schedule of requests in hindsight with at most that many requests, with the lists that the "
    "bound is named after and under the best of the fusions it was computed for (see “Bounds”). A policy with another "
    "fusion, longer lists, more of them or candidates of its own can lie above it. Asking at the right moments can "
    "beat always asking.",
    "Pareto front": "A point is on it when no other costs no more and is worth no less. The share says in how many of "
    "the resamples it is on the front. Bounds and points of unknown cost are left out.",
    "Normalised area": "(area under policy − under random) / (area under bound − under random), over the request "
    "ratios that all three cover.",
    "Hypervolume": "Area between a policy's points and the reference point (greatest cost of all points, value of "
    "never asking): measure times cost.",
    "Differences": "Paired t over users of the values interpolated at the same realised request ratio; d_z is the mean "
    "of the differences over their standard deviation.",
    "Costs": "Bytes are exact lengths of the encoded messages without the installation, which is shown apart.",
}


def write_tradeoff_page(folder: str | os.PathLike[str]) -> Path:
    """Writes tradeoff.html into a sweep folder, whole or not at all, and returns its path; RunError when it cannot."""
    sweep = Sweep.open(folder)
    return write_whole(sweep.path / PAGE, render(sweep, load(sweep)))


def render(sweep: Sweep, points: Points) -> str:
    """The page as HTML text."""
    css, script = ("".join(asset(name) for name in names) for names in (_STYLES, _SCRIPTS))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    measure = points.measures[0]
    protocol = {str(word).capitalize(): str(text) for word, text in sweep.summary.get("protocol", {}).items()}
    content: dict[str, Any] = {
        "csp": content_policy(css, script),
        "css": Markup(css),
        "script": Markup(script),
        "data": Markup(payload(points)),
        "title": str(sweep.summary.get("name", sweep.name)),
        "facts": _facts(points),
        "measure": measure.upper(),
        "figure": data_uri(tradeoff_figure(points, measure)),
        "recovered": recovered_rows(points, measure),
        "share_note": share_note(points, measure),
        "bound_note": BOUND_NOTE if points.bounds else None,
        "unasked": any_unasked(points),
        "spent_title": SPENT,
        "spent_note": SPENT_NOTE,
        "spent": spent_rows(points),
        "undefined": None if shares_defined(points, measure) else undefined_note(measure),
        "best": [
            {"axis": axis, "title": said, "rows": rows}
            for axis, said in EQUAL.items()
            if (rows := best_rows(points, measure, axis))
        ],
        "best_title": BEST,
        "best_note": BEST_NOTE,
        "holdings_title": HOLDINGS,
        "holdings_note": HOLDINGS_NOTE,
        "holdings": holding_rows(points.holdings, points.policies),
        "gains": gain_rows(points),
        "gains_title": GAINS,
        "gains_note": GAINS_NOTE,
        "glossary": _GLOSSARY | _random(points) | protocol,
        "command": sweep.summary.get("command"),
        "config": sweep.config_toml,
        "env": json.dumps(sweep.env, indent=2, ensure_ascii=False),
    }
    return environment.from_string(asset("tradeoff.jinja")).render(content)


def _random(points: Points) -> dict[str, str]:
    label = random_label(points)
    said = f"The policy {label!r}." if label else "This sweep has no policy that asks at random: no area is given."
    return {"Random": said}


def _facts(points: Points) -> list[tuple[str, str]]:
    means, first = points.means(points.measures[0]), points.measures[0].upper()
    policies = [label for label in points.policies if points.family_of(label) != f.FLOOR]
    return [
        ("users", f"{points.users:,}"),
        ("seeds", str(points.seeds)),
        ("policies", f"{len(policies)} + {len(points.policies) - len(policies)} references"),
        ("points of policies", str(sum(family != f.FLOOR for family in points.family))),
        (f"{first}, never asking", f"{means[points.never]:.4f}"),
        (f"{first}, always asking", f"{means[points.always]:.4f}"),
    ]
