"""Write the tables of README.md and docs/ from the results in scripts/study/results, and from the library's own lists.

python scripts/write_tables.py            # write them
python scripts/write_tables.py --check    # say what would change, and end with status 1 if anything would
"""

import argparse
import difflib
import sys

from study.tables.documents import DOCUMENTS, ROOT, filled


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, say what differs")
    check, changed = parser.parse_args().check, 0
    for path in DOCUMENTS:
        before = path.read_text(encoding="utf-8")
        after, name = filled(before), str(path.relative_to(ROOT))
        changed += before != after
        if check:
            lines = (text.splitlines(keepends=True) for text in (before, after))
            sys.stdout.writelines(difflib.unified_diff(*lines, name, f"{name}, made anew"))
        elif before != after:
            path.write_text(after, encoding="utf-8")
            print(f"written: {name}")
    return int(check and changed > 0)


if __name__ == "__main__":
    sys.exit(main())
