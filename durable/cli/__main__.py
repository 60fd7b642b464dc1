"""``python -m durable.cli``: the command where its script is not on the path."""

import sys

from durable.cli import main

sys.exit(main())
