"""Files of science, geometry, pictures, statistics, and arrays larger than one piece."""

import dask
import dask.array
import dask.dataframe
import h5py
import numpy as np
import pandas as pd
import pyproj
import shapely
import statsmodels.api as sm
import xarray
from skimage import filters, measure, transform


def files():
    with h5py.File("/tmp/x.h5", "w") as file:
        file.create_dataset("a/b", data=np.arange(1000), compression="gzip", chunks=(100,))
    with h5py.File("/tmp/x.h5", "r") as file:
        return [int(file["a/b"][500:510].sum()), list(file["a"])]


def geometry():
    circle = shapely.Point(0, 0).buffer(1, quad_segs=64)
    to_metres = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True)
    x, y = to_metres.transform(180, 0)
    return [round(circle.area, 2), circle.intersects(shapely.box(0, 0, 2, 2)), round(x), round(y)]


def pictures():
    image = np.zeros((50, 50))
    image[10:20, 10:20] = image[30:45, 30:45] = 1.0
    labels = measure.label(image > filters.threshold_otsu(image))
    return [int(labels.max()), transform.resize(image, (25, 25)).shape]


def statistics():
    x = np.linspace(0, 1, 50)
    fitted = sm.OLS(2 + 3 * x, sm.add_constant(x)).fit()
    return fitted.params.round(6).tolist()


def pieces():
    array = dask.array.ones((1000, 1000), chunks=(250, 250))
    table = dask.dataframe.from_pandas(pd.DataFrame({"k": list("aab"), "n": [1, 2, 3]}), npartitions=2)
    with dask.config.set(scheduler="processes", num_workers=2):
        squares = dask.compute(*(dask.delayed(pow)(n, 2) for n in range(4)))
    return [float(array.sum().compute()), table.groupby("k").n.sum().compute().to_dict(), squares, float(xarray.DataArray([1.0, 2.0], dims="t").mean())]


def handler(event, context):
    return globals()[event["case"]]()
