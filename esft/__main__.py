"""`python -m esft` is the command `esft`."""

from esft.cli import main

main(prog_name="esft")
