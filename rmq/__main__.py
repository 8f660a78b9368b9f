"""`python -m rmq`: the same as the console script."""

from rmq.cli import main

if __name__ == "__main__":
    main()
