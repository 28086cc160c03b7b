"""A version is published under an open load of 200 requests/s; beside it, what a small team does without a platform.

In the full run the new version needs numpy and pandas, which are installed while the old one answers, and each round has a server of
its own: a second installation of the same would be none. In the quick run it needs nothing. The control is the same
deploy of the same handler as an aiohttp server that is stopped, installed for, and started.
"""

from __future__ import annotations

from benchmarks import deploys, redeploy, trial
from benchmarks.baselines import Missing
from benchmarks.deploys import Account, Deploy
from benchmarks.stage import Peer, Stage
from tests.e2e.house import House

TITLE = "Publishing under load"
SAYS = (
    "Open load of 200 requests/s of independent callers, latencies from the planned time. The worse p99 of the phases during the deploy and after it "
    "is held against the p99 before, of the same load on the same server."
)
_CONTROL = "stop, pip install, start"
_NAME = "deployed"


def run(stage: Stage) -> None:
    """Fill in the result."""
    ours: list[Account] = []
    theirs: list[Account] = []
    house = _deployed(stage)
    for number in range(3):
        if number and not stage.quick:
            stage.stop(house)
            house = _deployed(stage)
        ours.append(_published(stage, house, number))
        if stage.quick and number:
            continue
        try:
            theirs.append(_redeployed(stage, number))
        except Missing as missing:
            stage.result.missing[_CONTROL] = str(missing)
    trial.promise(stage, "publish", ours)
    stage.result.tables.append(deploys.table(ours))
    if theirs:
        harm = [float(a.harmed) for a in ours[: len(theirs)]], [float(a.harmed) for a in theirs]
        stage.row("publish-harm", [a / b for a, b in zip(*harm, strict=True)], ("requests", harm[0]), (_CONTROL, "requests", harm[1]))
        stage.result.notes.append(f"Requests that failed with {_CONTROL}: {deploys.failures(theirs)}.")
        stage.result.tables.append(deploys.table(theirs, f"The same with a server that is redeployed: {_CONTROL}"))


def _deployed(stage: Stage) -> House:
    house = stage.server()
    stage.deploy(house, _NAME, trial.PLAIN.format(number=1))
    return house


def _published(stage: Stage, house: House, number: int) -> Account:
    """Publish another version, and judge it."""
    heavy, old = not stage.quick, number + 1 if stage.quick else 1
    with trial.under_load(stage, stage.function(house, _NAME), stage.pick(0.8, 10), stage.pick(1.0, 5)) as seen:
        if heavy:
            deploy = trial.publish(stage, house, _NAME, trial.HEAVY.format(number=2), 1, requirements=trial.HEAVY_REQUIREMENTS, memory="512M")
        else:
            deploy = trial.publish(stage, house, _NAME, trial.PLAIN.format(number=old + 1), old)
    if number == 0:
        title = f"Publishing {'numpy + pandas ' if heavy else ''}under {trial.RATE:g} requests/s"
        stage.result.plots.append(deploys.plot("publish", title, seen.answers, deploy))
    return deploys.judge(seen.answers, deploy)


def _redeployed(stage: Stage, number: int) -> Account:
    """Redeploy the control with the same code under the same load, and judge that."""
    heavy = not stage.quick
    stage.tell(f"control: {_CONTROL}")
    with redeploy.served(stage.folder / f"control{number}", trial.PLAIN.format(number=1), own_venv=heavy) as service:
        peer = Peer(name=_CONTROL, pid=0, host="127.0.0.1", port=service.port, path="/invoke")
        with trial.under_load(stage, peer, stage.pick(0.5, 5), stage.pick(0.5, 2)) as seen:
            source, requirements = (trial.HEAVY, trial.HEAVY_REQUIREMENTS) if heavy else (trial.PLAIN, [])
            began, done = service.redeploy(source.format(number=2), requirements)
        deploy = Deploy(old=1, new=2, moved=began, told=began, ready=done)
    if number == 0:
        title = f"The same, redeployed by {_CONTROL}"
        stage.result.plots.append(deploys.plot("publish-control", title, seen.answers, deploy, "stopped"))
    return deploys.judge(seen.answers, deploy)
