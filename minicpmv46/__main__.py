"""`python -m minicpmv46 COMMAND`."""

from minicpmv46.commands import main

raise SystemExit(main())
