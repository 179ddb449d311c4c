"""`python -m trainer`: the same as `edge-ad-train`."""

import sys

from trainer.cli import main

sys.exit(main())
