"""`python -m fiffdepth_rt`: the program, where its script is not on the PATH."""

from fiffdepth_rt.program import main

if __name__ == "__main__":
    main()
