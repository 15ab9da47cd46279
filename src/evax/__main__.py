"""`python -m evax`, and with it `torchrun -m evax`: the same as the evax command."""

from evax.cli import main

if __name__ == "__main__":
    main()
