import sys

from benchmarks import report, table

if __name__ == "__main__":
    if sys.argv[1:2] == ["table"]:
        raise SystemExit(table.main(sys.argv[2:]))
    raise SystemExit(report.main())
