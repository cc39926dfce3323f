"""tradeoff.html: a sweep's accuracy against every cost, with a budget to move; one file that works from disk."""

import json
import os
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from reports.html import asset, content_policy, data_uri, write_whole
from reports.tradeoff_best import BEST_NOTE, best_rows
from reports.tradeoff_calibration import CALIBRATION_NOTE, calibration_rows
from reports.tradeoff_figures import BUDGETS, recovered_rows, tradeoff_figure, undefined_note
from reports.tradeoff_payload import payload, random_label
from reports.tradeoff_points import Points, load
from reports.tradeoff_readings import shares_defined
from simulation import sweep_folder as f
from simulation.sweep_folder import PAGE, Sweep

_SCRIPTS: Final = ("tradeoff.js", "tradeoff_view.js", "tradeoff_tables.js", "tradeoff_calibration.js")
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
    "hardly better than never (by less than 1 %, or not in the 95 % interval), the plain difference to never instead.",
    "Of the gain": "(policy − never) / (bound − never) at the same request ratio. The bound knows which item comes "
    "next; it is held as measured.",
    "Bound": "Best value that any schedule of requests could reach with at most that many requests, exactly, per user, "
    "with the pools that the protocol names. Asking at the right moments can beat always asking; a policy with longer "
    "lists, more of them or candidates of its own is not bound by it.",
    "Pareto front": "A point is on it when no other costs no more and is worth no less. The share says in how many of "
    "the resamples it is on the front. Policies that know the future are left out, as are points of unknown cost.",
    "Normalised area": "(area under policy − under random) / (area under bound − under random), over the request "
    "ratios that all three cover.",
    "Hypervolume": "Area between a policy's points and the reference point (greatest cost of all points, value of "
    "never asking): measure times cost.",
    "Differences": "Paired t over users of the values interpolated at the same realised request ratio; d_z is the mean "
    "of the differences over their standard deviation.",
    "Costs": "Bytes are exact lengths of the encoded messages without the installation, which is shown apart. Latency "
    "is virtual seconds from a request to its usable reply.",
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
        "data": Markup(payload(sweep, points)),
        "title": str(sweep.summary.get("name", sweep.name)),
        "facts": _facts(points),
        "measure": measure.upper(),
        "figure": data_uri(tradeoff_figure(points, measure)),
        "budgets": [f"{100 * budget:.0f} %" for budget in BUDGETS],
        "recovered": recovered_rows(points, measure),
        "undefined": None if shares_defined(points, measure) else undefined_note(measure),
        "best": best_rows(points, measure),
        "best_note": BEST_NOTE,
        "calibration": calibration_rows(points),
        "calibration_note": CALIBRATION_NOTE,
        "glossary": _GLOSSARY | _random(sweep, points) | protocol,
        "command": sweep.summary.get("command"),
        "config": sweep.config_toml,
        "env": json.dumps(sweep.env, indent=2, ensure_ascii=False),
    }
    return environment.from_string(asset("tradeoff.jinja")).render(content)


def _random(sweep: Sweep, points: Points) -> dict[str, str]:
    label = random_label(sweep, points)
    said = f"The policy {label!r}." if label else "This sweep has no policy that asks at random: no area is given."
    return {"Random": said}


def _facts(points: Points) -> list[tuple[str, str]]:
    means, first = points.means(points.measures[0]), points.measures[0].upper()
    policies = [label for label in points.policies if points.family_of(label) != f.FLOOR]
    return [
        ("users", f"{points.users:,}"),
        ("seeds", str(points.seeds)),
        ("policies", str(len(policies))),
        ("points", str(len(points.policy))),
        (f"{first}, never asking", f"{means[points.never]:.4f}"),
        (f"{first}, always asking", f"{means[points.always]:.4f}"),
    ]
