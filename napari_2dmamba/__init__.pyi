from .features import extract_features as extract_features
from .models import load_checkpoint as load_checkpoint
from .pipeline import run as run
from .slide import open_slide as open_slide

__version__: str
