import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "2")
# speeds of encoders, and the batch sizes that follow from them, are kept with the user's settings
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="napari-2dmamba-tests-")
