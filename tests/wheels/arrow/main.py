"""Arrow: columns computed in threads, Parquet and Feather files, datasets."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.dataset as ds
import pyarrow.feather as feather
import pyarrow.parquet as pq

TABLE = pa.table({"species": ["gentoo", "adelie", "adelie"], "mass": [5076, 3701, 3699]})


def compute():
    grouped = TABLE.group_by("species").aggregate([("mass", "mean")]).sort_by("species").to_pydict()
    return [grouped, pc.sum(TABLE["mass"]).as_py()]


def files():
    pq.write_table(TABLE, "/tmp/birds.parquet", compression="zstd")
    feather.write_feather(TABLE, "/tmp/birds.feather")
    pcsv.write_csv(TABLE, "/tmp/birds.csv")
    parquet = pq.read_table("/tmp/birds.parquet")
    return [parquet.equals(TABLE), feather.read_table("/tmp/birds.feather", memory_map=True).equals(TABLE), pcsv.read_csv("/tmp/birds.csv").equals(TABLE)]


def dataset():
    ds.write_dataset(TABLE, "/tmp/birds", format="parquet", partitioning=["species"], existing_data_behavior="delete_matching")
    return ds.dataset("/tmp/birds", partitioning=["species"]).to_table(filter=ds.field("species") == "gentoo")["mass"].to_pylist()


def handler(event, context):
    return globals()[event["case"]]()
