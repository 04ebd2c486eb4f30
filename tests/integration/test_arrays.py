"""Arrays on their way to PostgreSQL and back: nothing is lost on either."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from models import arrays
from models.engine import driver, transaction

TYPES = {"a": arrays.INT, "b": arrays.DOUBLE, "c": arrays.INSTANT}
#: The years 1 to 9999 in microseconds since 1970.
instants = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
row = st.tuples(st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False), instants)
#: What PostgreSQL stores: no NUL, no half of a pair.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@pytest.mark.usefixtures("servers")
def test_numbers_come_back_as_they_went() -> None:
    @given(st.lists(row, max_size=20))
    def there_and_back(rows: list[tuple[int, float, int]]) -> None:
        columns = list(zip(*rows, strict=True)) or [(), (), ()]
        given_ = {
            name: arrays.packed(type_, np.array(column, float if name == "b" else np.int64))
            for (name, type_), column in zip(TYPES.items(), columns, strict=True)
        }
        statement = sql.SQL(
            "SELECT * FROM unnest(%(a)s::int[], %(b)s::float8[], %(c)s::timestamptz[])"
        )
        with transaction() as conn:
            found = arrays.read(conn, statement, given_, TYPES)
        assert found.tolist() == rows

    there_and_back()


@pytest.mark.usefixtures("servers")
def test_text_comes_back_as_it_went() -> None:
    @given(st.lists(st.one_of(texts, st.none()), max_size=20))
    def there_and_back(values: list[str | None]) -> None:
        with transaction() as conn:
            answer = driver(conn).execute("SELECT %s::text[]", [arrays.spelled(values)]).fetchone()
        assert answer == (values,)

    there_and_back()


@pytest.mark.usefixtures("servers")
def test_nan_stays_nan() -> None:
    with transaction() as conn:
        packed = arrays.packed(arrays.DOUBLE, [1.5, math.nan])
        answer = driver(conn).execute("SELECT %s::float8[]", [packed]).fetchone()
    assert answer is not None
    first, second = answer[0]
    assert (first, math.isnan(second)) == (1.5, True)
