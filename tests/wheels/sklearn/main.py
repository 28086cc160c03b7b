"""Models fitted and asked, in one process, in threads and in worker processes."""

import pickle

import numpy as np
from joblib import Memory, Parallel, delayed
from scipy import linalg
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris, make_blobs
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits


def fit():
    inputs, labels = load_iris(return_X_y=True)
    model = make_pipeline(StandardScaler(), PCA(3), LogisticRegression()).fit(inputs, labels)
    again = pickle.loads(pickle.dumps(model))
    return [model.score(inputs, labels) > 0.9, again.predict(inputs[:1]).tolist(), inputs.shape]


def threads():
    """A forest runs its trees in threads, boosting and k-means use OpenMP."""
    inputs, labels = load_iris(return_X_y=True)
    forest = RandomForestClassifier(20, n_jobs=2, random_state=7).fit(inputs, labels)
    boosted = HistGradientBoostingClassifier(max_iter=10).fit(inputs, labels)
    points, _ = make_blobs(300, centers=[[0, 0], [9, 9], [-9, 9]], random_state=7)
    centres = KMeans(3, n_init=3, random_state=7).fit(points).cluster_centers_
    return [forest.score(inputs, labels) > 0.9, boosted.score(inputs, labels) > 0.9, sorted(centres.round().astype(int).tolist())]


def processes():
    """Cross validation runs in loky's worker processes."""
    inputs, labels = load_iris(return_X_y=True)
    scores = cross_val_score(LogisticRegression(max_iter=500), inputs, labels, cv=4, n_jobs=2)
    return [len(scores), bool(scores.min() > 0.9)]


def large_machine():
    """Start as many threads as on a machine with 64 processors: each library's BLAS and OpenMP its own."""
    with threadpool_limits(64):
        product = (np.eye(400) @ np.ones((400, 400))).sum()
        decomposed = linalg.eigvalsh(np.eye(200)).sum()
        points, _ = make_blobs(2000, centers=[[0, 0], [9, 9]], random_state=7)
        found = KMeans(2, n_init=1, random_state=7).fit(points).n_iter_
    return [float(product), float(decomposed), found > 0]


def joblib_backends():
    told = {backend: Parallel(n_jobs=2, backend=backend)(delayed(pow)(n, 2) for n in range(5)) for backend in ("loky", "threading", "multiprocessing")}
    kept = Memory("/tmp/cache", verbose=0).cache(pow)
    return [told, kept(2, 10) == kept(2, 10)]


def handler(event, context):
    return globals()[event["case"]]()
