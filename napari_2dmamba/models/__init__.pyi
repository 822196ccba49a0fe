from .aggregator import Aggregator as Aggregator
from .checkpoint import checkpoint_header as checkpoint_header
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import save_checkpoint as save_checkpoint
from .header import CheckpointHeader as CheckpointHeader
from .header import read_header as read_header
from .prediction import SlidePrediction as SlidePrediction
from .published import MissingSettingsError as MissingSettingsError
from .published import training_canvas as training_canvas
from .settings import ModelSettings as ModelSettings
from .settings import device_and_reason as device_and_reason

ENTRY_POINTS: str
