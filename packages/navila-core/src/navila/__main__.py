"""`python -m navila`."""

import sys

from navila.cli import main

sys.exit(main())
