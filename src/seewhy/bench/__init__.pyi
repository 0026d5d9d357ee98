from .execute.run import resume as resume, run as run
from .plan import Plan as Plan
from .store import Store as Store
