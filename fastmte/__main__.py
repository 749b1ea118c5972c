"""``python -m fastmte`` is ``fastmte``."""

from fastmte.cli import main

main(prog_name="fastmte")
