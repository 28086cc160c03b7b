"""A function goes back to its earlier version under an open load of 200 requests/s."""

from __future__ import annotations

from benchmarks import deploys, trial
from benchmarks.stage import Stage

TITLE = "Rolling back under load"
SAYS = "Open load of 200 requests/s. Each round publishes a version, waits until it alone answers, and goes back to the one before it."


def run(stage: Stage) -> None:
    """Fill in the result."""
    house, name, accounts = stage.server(), "deployed", []
    stage.deploy(house, name, trial.PLAIN.format(number=1))
    rounds = stage.pick(3, 5)
    for number in range(rounds):
        new = 2 + number
        stage.tell(f"round {number + 1} of {rounds}")
        stage.deploy(house, name, trial.PLAIN.format(number=new))
        trial.wait_for(house, name, new)
        with trial.under_load(stage, stage.function(house, name), stage.pick(0.8, 5), stage.pick(1.0, 3)) as seen:
            deploy = trial.roll_back(stage, house, name, new, 1)
        accounts.append(deploys.judge(seen.answers, deploy))
        if number == 0:
            title = f"Rolling back under {trial.RATE:g} requests/s"
            stage.result.plots.append(deploys.plot("rollback", title, seen.answers, deploy, "rolled back"))
    trial.promise(stage, "rollback", accounts)
    stage.result.tables.append(deploys.table(accounts))
