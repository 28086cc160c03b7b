"""Models that parse, refuse and describe themselves."""

from datetime import date
from decimal import Decimal

from pydantic import BaseModel, Field, ValidationError, field_validator


class Line(BaseModel):
    what: str = Field(min_length=1)
    price: Decimal = Field(gt=0)


class Order(BaseModel):
    number: int
    day: date
    lines: list[Line]

    @field_validator("lines")
    @classmethod
    def not_empty(cls, lines):
        """An order is for something."""
        if not lines:
            raise ValueError("nothing was ordered")
        return lines


def valid():
    order = Order.model_validate_json('{"number": "7", "day": "2024-02-29", "lines": [{"what": "tea", "price": "2.50"}]}')
    return {"number": order.number, "leap": order.day.day, "sum": str(sum(line.price for line in order.lines)), "json": order.model_dump_json()}


def invalid():
    try:
        Order.model_validate({"number": "x", "day": "2023-02-29", "lines": [{"what": "", "price": -1}]})
    except ValidationError as error:
        return sorted(".".join(map(str, one["loc"])) + " " + one["type"] for one in error.errors())
    return "accepted"


def schema():
    return sorted(Order.model_json_schema()["properties"])


def handler(event, context):
    return {"valid": valid, "invalid": invalid, "schema": schema}[event["case"]]()
