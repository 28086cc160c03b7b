"""Tables: grouped, merged, pivoted, resampled, written and read."""

import io

import pandas as pd

BIRDS = pd.DataFrame({"species": ["gentoo", "adelie", "adelie"], "mass": [5076, 3701, 3699]})
PLACES = pd.DataFrame({"species": ["adelie", "gentoo"], "island": ["Torgersen", "Biscoe"]})


def group():
    return BIRDS.groupby("species")["mass"].agg(["count", "mean"]).astype(int).to_dict("index")


def merge():
    merged = BIRDS.merge(PLACES, on="species", how="left")
    return [merged["island"].tolist(), merged.pivot_table(index="island", values="mass", aggfunc="max")["mass"].to_dict()]


def csv():
    text = BIRDS.to_csv(index=False)
    BIRDS.to_pickle("/tmp/birds.pkl")
    same = pd.read_pickle("/tmp/birds.pkl").equals(pd.read_csv(io.StringIO(text)))
    return [text, same]


def times():
    series = pd.Series(range(48), index=pd.date_range("2024-03-30", periods=48, freq="h", tz="UTC"))
    local = series.tz_convert("Europe/Paris")
    return [series.resample("D").sum().tolist(), local.index[0].isoformat(), int(local.rolling(3).mean().iloc[-1])]


def query():
    return BIRDS.query("mass > 3700 and species == 'adelie'")["mass"].tolist()


def handler(event, context):
    return globals()[event["case"]]()
