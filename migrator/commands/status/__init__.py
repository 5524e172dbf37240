"""`migrate status`: what the state database says.

conclusions.py   what follows from it: where runs go, the next step, which run is meant
documents.py     as JSON
overview.py      as text: the whole job
run.py           as text: one run
text.py          how text gets on a console
"""

from migrator.commands.status.conclusions import Bound, bound_to, find_run
from migrator.commands.status.documents import failed_json, overview_json, run_json
from migrator.commands.status.overview import print_failed, print_overview, print_skips
from migrator.commands.status.run import print_run

__all__ = [
    "Bound",
    "bound_to",
    "failed_json",
    "find_run",
    "overview_json",
    "print_failed",
    "print_overview",
    "print_run",
    "print_skips",
    "run_json",
]
