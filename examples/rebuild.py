"""Rebuilds projections beside running servers: python rebuild.py sqlite:///runstore.db [NAME…]

Exit code 1 if one of them differed from the log.
"""

import sys

import runstore


def main(url: str, *names: str) -> int:
    different = False
    with runstore.open_projections(url) as projections:

        def progress(name: str, reached: int, goal: int) -> None:
            print(f"\r{name}: {reached:,} of {goal:,}", end="", file=sys.stderr)

        reports = projections.rebuild_all(names or projections.names, progress)
    print(file=sys.stderr)
    for report in reports:
        for table, found in (report.tables or {}).items():
            counts = f"{found.missing} missing, {found.wrong} wrong, {found.extra} extra"
            print(f"{table}: {found.rows:,} rows; {counts}")
            for key in found.keys:
                print(f"  {key.how}: {key.key}")
        different = different or bool(report.tables and not report.equal)
    return int(different)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except runstore.RunstoreError as error:
        sys.exit(f"rebuild: {error}")
