"""`python -m hf_dtl.cli COMMAND`, for `accelerate launch -m hf_dtl.cli COMMAND`."""

from hf_dtl.cli.main import main

if __name__ == "__main__":
    main()
