"""`python -m hf_dtl.metrics install`: make `evaluate.load("piggyback_accuracy")` work by bare name, once."""

import argparse
from importlib.metadata import version

from hf_dtl.errors import DTLError
from hf_dtl.metrics import NAMES, path
from hf_dtl.metrics.install import cache_folder, install, short_path, status, uninstall

COMMANDS = {
    "install": (install, "put the metrics into evaluate's cache of modules, or bring them up to date there"),
    "uninstall": (uninstall, "take them out again"),
    "status": (status, "say which of them are there"),
}


def main(arguments: list[str] | None = None) -> None:
    """Run one command and print what was done where."""
    parser = argparse.ArgumentParser(prog="python -m hf_dtl.metrics", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, (_, text) in COMMANDS.items():
        added = commands.add_parser(command, help=text)
        added.add_argument("names", nargs="*", metavar="NAME", help=f"default: {' '.join(NAMES)}")
    folder = commands.add_parser("path", help="print the folder of a metric, for evaluate.load without installing")
    folder.add_argument("name", metavar="NAME", help=", ".join(NAMES))
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "path":
            print(path(chosen.name))
            return
        found = COMMANDS[chosen.command][0](chosen.names or NAMES)
    except DTLError as error:
        parser.exit(1, f"{error}\n")
    print(f"evaluate {version('evaluate')}, modules in {short_path(cache_folder())}")
    for one in found:
        print(f"{one.name:<24} {one.state}{f'  {short_path(one.folder)}' if one.folder is not None else ''}")
    if chosen.command == "install":
        print(f'Now evaluate.load("{found[0].name}") works from any folder, also offline.')


if __name__ == "__main__":
    main()
