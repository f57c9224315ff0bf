"""One thread for torch in every test: on a busy machine its threads wait for each other, and tiny models take long."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported
