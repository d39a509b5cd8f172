"""`python -m stage2_temporal`."""

import sys

from stage2_temporal.cli import main

sys.exit(main())
