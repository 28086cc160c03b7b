"""A version whose code lies in a slow object store is named for the first time, under an open load of 200 requests/s.

Bundles are kept in an S3-speaking server behind a proxy that passes 1 MiB/s; nothing is prepared or loaded when it is published
(`preload=false`). The new version's bundle has 3 MiB that no compression makes less. The first request that names
it, once published, begins the download, and is answered by the old version like all others until the code is there. The upload
goes the same way before that, which is why the publication itself takes seconds.
"""

from __future__ import annotations

import secrets

from benchmarks import deploys, trial
from benchmarks.deploys import Account
from benchmarks.result import Table
from benchmarks.stage import Stage
from tests.adapters.object_store import object_store
from tests.e2e.house import packed

TITLE = "Code in a slow object store, under load"
SAYS = "Open load of 200 requests/s. Published without preloading: the first request that names the new version begins its download at 1 MiB/s."
_RATE = 1 << 20  # bytes/s
_WEIGHT = 3 << 20
_NAME = "deployed"


def run(stage: Stage) -> None:
    """Fill in the result."""
    accounts: list[Account] = []
    fetched: list[float] = []
    sizes: list[float] = []
    lines: list[tuple[str, ...]] = []
    for number in range(stage.pick(1, 3)):
        stage.tell("starting an object store")
        with object_store(bytes_per_second=_RATE) as store:
            house = stage.server(*store.flags, "-s", "preload=false", env=store.env)
            house.deploy(_NAME, trial.PLAIN.format(number=1), wait=False)
            trial.wait_for(house, _NAME, 1)
            files = {"main.py": trial.PLAIN.format(number=2), "weight.bin": secrets.token_bytes(_WEIGHT)}
            with trial.under_load(stage, stage.function(house, _NAME), stage.pick(2, 5), stage.pick(2, 5)) as seen:
                before = store.counts()
                deploy = trial.publish(stage, house, _NAME, files, 1)
                after = store.counts()
            stage.stop(house)
        accounts.append(deploys.judge(seen.answers, deploy))
        fetched.append(float(after["bytes"] - before["bytes"]))
        sizes.append(float(len(packed(files))))
        first = min((a.sent for a in seen.answers if a.requested == deploy.new), default=deploy.moved)
        came = min((a.done for a in seen.answers if a.ran == deploy.new), default=deploy.moved)
        meanwhile = sum(a.requested == deploy.new and a.ran == deploy.old for a in seen.answers)
        gets = after["gets"] - before["gets"]
        lines.append((str(number + 1), str(gets), f"{fetched[-1]:,.0f}", f"{sizes[-1]:,.0f}", f"{came - first:.2f}", f"{meanwhile:,}"))
        if number == 0:
            stage.result.plots.append(deploys.plot("store", f"Code at 1 MiB/s under {trial.RATE:g} requests/s", seen.answers, deploy))
    trial.promise(stage, "store", accounts)
    stage.row("store-bytes", [a / b for a, b in zip(fetched, sizes, strict=True)], ("bytes", fetched), ("the bundle", "bytes", sizes))
    head = ("round", "transfers", "bytes of them", "bytes of the bundle", "first request to first answer, s", "answered by the old version meanwhile")
    stage.result.tables += [Table(title="What was fetched", head=head, rows=lines), deploys.table(accounts)]
