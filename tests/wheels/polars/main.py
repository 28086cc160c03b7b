"""Polars and DuckDB: queries in their own thread pools, files, one SQL over both."""

import duckdb
import polars as pl

BIRDS = pl.DataFrame({"species": ["gentoo", "adelie", "adelie"], "mass": [5076, 3701, 3699]})


def lazy():
    found = BIRDS.lazy().group_by("species").agg(pl.col("mass").mean()).sort("species").collect()
    return [found.to_dict(as_series=False), pl.thread_pool_size() >= 1]


def files():
    BIRDS.write_parquet("/tmp/birds.parquet")
    BIRDS.write_csv("/tmp/birds.csv")
    return [pl.scan_parquet("/tmp/birds.parquet").filter(pl.col("mass") > 4000).collect()["species"].to_list(), pl.read_csv("/tmp/birds.csv").equals(BIRDS)]


def sql():
    kept = duckdb.connect("/tmp/birds.duckdb", config={"threads": 4})
    kept.execute("create or replace table birds as select * from read_csv_auto(?)", [csv()])
    return kept.execute("select species, avg(mass) from birds group by species order by 1").fetchall()


def csv():
    BIRDS.write_csv("/tmp/for_duckdb.csv")
    return "/tmp/for_duckdb.csv"


def handler(event, context):
    return globals()[event["case"]]()
