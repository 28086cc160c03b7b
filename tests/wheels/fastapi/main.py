"""A FastAPI application under the function's own URL: models, forms, files, a stream, its own documentation."""

from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI, File, Form, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

app = FastAPI(title="birds")
DONE = []


class Bird(BaseModel):
    species: str
    mass: int


@app.post("/birds", status_code=201)
async def create(bird: Bird, tasks: BackgroundTasks):
    tasks.add_task(DONE.append, bird.species)
    return {"heavy": bird.mass > 4000, **bird.model_dump()}


@app.get("/birds/{number}")
def read(number: int, words: Annotated[list[str], Depends(lambda: ["in", "a", "thread"])]):
    if number > 9:
        raise HTTPException(404, "no such bird")
    return {"number": number, "words": words}


@app.post("/form")
async def form(name: Annotated[str, Form()], file: Annotated[bytes, File()] = b""):
    return {"name": name, "size": len(file)}


@app.get("/stream")
async def stream():
    return StreamingResponse((f"{number}\n" for number in range(3)), media_type="text/plain")


@app.get("/done")
def done():
    return DONE[-1:]
