"""A CSV file with a header, read by the names of its columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxad.errors import InputError


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield `(line number, fields in the order of columns)` of every row that is not blank.

    UTF-8, with or without a byte order mark (spreadsheets put one); further columns are ignored.

    Raises:
      InputError: no such file, one that can not be read, not UTF-8, columns missing, or a row of
        another length.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = next(rows, [])
            missing = [name for name in columns if name not in header]
            if missing:
                raise InputError(
                    f"{path}: the header has no column {', '.join(missing)}: it must name "
                    f"{','.join(columns)} (separated by commas)"
                )
            places = [header.index(name) for name in columns]
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise InputError(
                        f"{path}: line {rows.line_num} has {len(row)} fields where the header has "
                        f"{len(header)}: quote fields that hold commas"
                    )
                yield rows.line_num, [row[place] for place in places]
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest") from None
    except OSError as error:
        raise InputError(f"{path}: can not be read ({error.strerror})") from error
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8: save the manifest as UTF-8 text") from None
    except csv.Error as error:
        raise InputError(f"{path}: line {rows.line_num} is not CSV ({error})") from None
