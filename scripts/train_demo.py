"""Train the demo checkpoint: `python scripts/train_demo.py RUN`, where RUN is a folder; `--help` tells the rest."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from scripts.demo.train import main

if __name__ == "__main__":
    main()
