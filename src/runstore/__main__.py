"""`python -m runstore`."""

from runstore.cli.main import main

main()
