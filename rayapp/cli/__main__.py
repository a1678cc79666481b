"""`python -m rayapp.cli`, for where the console script is not on the path."""

from rayapp.cli import main

main()
