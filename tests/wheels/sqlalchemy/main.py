"""An SQLite file in /tmp behind SQLAlchemy: models, transactions, threads, and the asynchronous way."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import ForeignKey, create_engine, event, func, select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class Species(Base):
    __tablename__ = "species"
    name: Mapped[str] = mapped_column(primary_key=True)
    birds: Mapped[list["Bird"]] = relationship(back_populates="species", cascade="all, delete-orphan")


class Bird(Base):
    __tablename__ = "bird"
    id: Mapped[int] = mapped_column(primary_key=True)
    mass: Mapped[int]
    of: Mapped[str] = mapped_column(ForeignKey("species.name"))
    species: Mapped[Species] = relationship(back_populates="birds")


def fresh(path):
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    event.listen(engine, "connect", lambda raw, _: raw.execute("pragma foreign_keys=on"))
    Base.metadata.drop_all(engine)
    Base.metadata.create_all(engine)
    return engine


def models():
    with Session(fresh("/tmp/models.db")) as session:
        session.add_all([Species(name="adelie", birds=[Bird(mass=3701), Bird(mass=3699)]), Species(name="gentoo", birds=[Bird(mass=5076)])])
        session.commit()
        rows = session.execute(select(Species.name, func.avg(Bird.mass)).join(Species.birds).group_by(Species.name).order_by(Species.name)).all()
        session.delete(session.get(Species, "adelie"))
        session.commit()
        left = session.scalar(select(func.count()).select_from(Bird))
        try:
            session.add(Bird(mass=1, of="nobody"))
            session.commit()
        except IntegrityError as error:
            return [[list(row) for row in rows], left, type(error).__name__]


def threads():
    engine = fresh("/tmp/threads.db")
    with Session(engine) as session:
        session.add(Species(name="adelie"))
        session.commit()

    def add(mass):
        with Session(engine) as own:
            own.add(Bird(mass=mass, of="adelie"))
            own.commit()

    with ThreadPoolExecutor(4) as workers:
        list(workers.map(add, range(10)))
    with Session(engine) as session:
        return session.scalar(select(func.sum(Bird.mass)))


def asynchronously():
    async def ask():
        engine = create_async_engine("sqlite+aiosqlite:////tmp/async.db")
        async with engine.begin() as connection:
            found = (await connection.execute(text("select 6 * 7"))).scalar()
        await engine.dispose()
        return found

    return asyncio.run(ask())


def handler(event, context):
    return globals()[event["case"]]()
