from .run import extract_cohort as extract_cohort
from .run import run_cohort as run_cohort
from .settings import CohortSettings as CohortSettings
from .slides import CohortSlide as CohortSlide
from .slides import find_slides as find_slides
from .status import CohortSummary as CohortSummary
from .status import SlideStatus as SlideStatus
from .status import read_cohort as read_cohort
