"""What all tables share: one metadata, predictable constraint names, the types with a meaning."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from sqlalchemy import DateTime, Double, Integer, MetaData, Text
from sqlalchemy.orm import DeclarativeBase, mapped_column


class Base(DeclarativeBase):
    """The declarative base; its metadata is what `alembic check` compares the database with."""

    metadata = MetaData(
        naming_convention={
            "pk": "%(table_name)s_pkey",
            "uq": "%(table_name)s_%(column_0_N_name)s_key",
            "ix": "%(table_name)s_%(column_0_N_name)s_idx",
            "fk": "%(table_name)s_%(column_0_N_name)s_fkey",
            "ck": "%(table_name)s_%(constraint_name)s_check",
        }
    )


#: An instant, always aware; PostgreSQL keeps it in UTC with microseconds.
Instant = Annotated[datetime, mapped_column(DateTime(timezone=True))]
#: An instant that is part of the row's identity.
InstantKey = Annotated[datetime, mapped_column(DateTime(timezone=True), primary_key=True)]
#: The integer a device is known by in the big tables (4 bytes instead of its name).
DeviceKey = Annotated[int, mapped_column(Integer, primary_key=True, autoincrement=False)]
#: Energy in kWh: eight bytes hold every decimal a register sends exactly as it was sent.
Kwh = Annotated[float, mapped_column(Double)]
#: What is physically possible for a device; null is the default of models/ratings.py.
Rated = Annotated[float | None, mapped_column(Double)]
#: A name, bounded at the door rather than in the database.
Name = Annotated[str, mapped_column(Text)]
