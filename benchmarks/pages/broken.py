"""A version that cannot be imported is published under an open load of 200 requests/s: the old one goes on answering."""

from __future__ import annotations

from benchmarks import deploys, trial
from benchmarks.stage import Stage

TITLE = "Publishing a version that fails its probe, under load"
SAYS = "Open load of 200 requests/s. The new version imports a module that is not there; every answer has to be the old version's."


def run(stage: Stage) -> None:
    """Fill in the result."""
    house, accounts = stage.server(), []
    for number in range(stage.pick(3, 5)):
        name = f"deployed{number}"  # one whose pointer names a failed version is no baseline
        stage.deploy(house, name, trial.PLAIN.format(number=1))
        with trial.under_load(stage, stage.function(house, name), stage.pick(0.8, 5), stage.pick(1.0, 3)) as seen:
            deploy = trial.publish(stage, house, name, trial.BROKEN.format(number=2), 1)
        if deploy.new:
            raise RuntimeError("a version that cannot be imported became ready")
        accounts.append(deploys.judge(seen.answers, deploy))
        if number == 0:
            title = f"Publishing a version that fails, under {trial.RATE:g} requests/s"
            stage.result.plots.append(deploys.plot("broken", title, seen.answers, deploy))
    trial.promise(stage, "broken", accounts)
    stage.result.tables.append(deploys.table(accounts))
