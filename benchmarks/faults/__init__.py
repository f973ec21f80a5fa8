"""What `chaos` does to runs, and how it judges what is left."""

import os
import sys
from pathlib import Path

# before NumPy is imported: threads do not live through the forks of `warm`
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, whatever is installed
