"""Summarise a CSV table: for each column of numbers its count, mean, spread and range, by groups if asked."""

import csv
import io
import json
import os
import statistics


def handler(event, context):
    """Return a summary; the event is the table's bytes, or {"csv": text, "by": column}."""
    if isinstance(event, bytes):
        event = {"csv": event.decode()}
    rows = list(csv.DictReader(io.StringIO(event["csv"])))
    by = event.get("by") or os.environ.get("BY")
    groups = {}
    for row in rows:
        groups.setdefault(row.get(by, "all"), []).append(row)
    report = {name: summary(members) for name, members in groups.items()}
    print(json.dumps({"rows": len(rows), "groups": len(groups)}))
    return {"rows": len(rows), "by": by, "groups": report}


def summary(rows):
    """Summarise the columns that hold numbers only."""
    found = {}
    for column in rows[0]:
        values = numbers(row[column] for row in rows)
        if values:
            found[column] = {
                "count": len(values),
                "mean": round(statistics.fmean(values), 3),
                "stdev": round(statistics.stdev(values), 3) if len(values) > 1 else 0.0,
                "min": min(values),
                "max": max(values),
            }
    return found


def numbers(texts):
    """Return the values of a column without those that are missing, or nothing when one of them is no number."""
    try:
        return [float(text) for text in texts if text not in ("", "NA")]
    except ValueError:
        return []
