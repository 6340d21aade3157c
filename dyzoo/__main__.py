"""`python -m dyzoo` is the command `dyzoo`."""

from dyzoo.cli import main

if __name__ == "__main__":
    main()
