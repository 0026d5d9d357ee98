from .diff import RunComparison as RunComparison, compare_runs as compare_runs
from .evaluation import Evaluation as Evaluation, evaluate as evaluate
from .execute.run import Watcher as Watcher, resume as resume, run as run
from .plan import Plan as Plan
from .presets import list_presets as list_presets
from .report import write_report as write_report
from .store import Store as Store, open_run as open_run
