"""A ranking of one's own as words and as one page. No torch, no network."""

import base64
from collections.abc import Mapping
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from ..basics.confidence import CONFIDENT, SOFT, preferred_miss

# Columns that are shown, and how their numbers are written, of `rank` and of `rank_within`.
COLUMNS = {
    "rank": "d",
    "augmentation": "s",
    "score": ".3f",
    "cmi": ".3f",
    "divergence": ".3f",
    "error": ".1%",
    "confidence": ".2f",
    "teacher_stddev": ".4f",
    "behind": ".3f",
    "state": "s",
    "images": ",d",
}
MANY = 4  # candidates that a sentence lists


def cells(table: pd.DataFrame, intervals: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """The rows of a ranking as texts, by the columns of it that are shown. intervals  columns whose
    intervals stand behind their numbers.
    """
    shown = [c for c in COLUMNS if c in table and not table[c].isna().all()]
    rows = table.to_dict("records")
    return [{c: _cell(row, c, c in intervals) for c in shown} for row in rows]


def _cell(row: Mapping[str, Any], column: str, interval: bool) -> str:
    if pd.isna(row[column]):
        return ""
    text, ends = format(row[column], COLUMNS[column]), (f"{column}_low", f"{column}_high")
    if interval and ends[0] in row:
        low, high = (format(row[end], COLUMNS[column]) for end in ends)
        text += f" [{low}, {high}]"
    return text


def undecided(table: pd.DataFrame) -> list[str]:
    """The candidates that may be as good as the first: their score's interval, or in a race that of
    the difference, reaches the first one's.
    """
    others = table.iloc[1:]
    if "behind_low" in table:
        near = (others["behind_low"] <= 0) & (others["state"] != "dropped")
    elif "score_low" in table:
        near = others["score_low"] <= table["score_high"][0]
    else:
        return []
    return others.loc[near, "augmentation"].tolist()


def summary(table: pd.DataFrame) -> str:
    """What came out, in a sentence or two.

    >>> summary(pd.DataFrame({"augmentation": ["a", "b"], "score": [1.0, 2.0]}))
    'Best: a, with a score of 1.000 nats.'
    """
    first = table.iloc[0]
    text = f"Best: {first['augmentation']}, with a score of {first['score']:.3f} nats."
    if near := undecided(table):
        more = f" and {len(near) - MANY} more" if len(near) > MANY else ""
        text += f" As good may be {', '.join(near[:MANY])}{more}: more images would tell."
    return text


def meaning(confidence: float, classes: int) -> str:
    """What a teacher's confidence on its own images says of the score (basics/confidence.py)."""
    is_so = f"Its confidence on the pictures as they are is {confidence:.2f}. "
    if confidence >= CONFIDENT:
        miss = f"{preferred_miss(classes):.0%}"
        return is_so + (
            "That is a certain teacher. The score of a certain teacher prefers what makes it err, "
            f"up to {miss} of the label mass with {classes} classes, whether or not that helps a "
            "student. Look at the column error beside the score."
        )
    if confidence <= SOFT:
        return is_so + (
            "That is a soft teacher. The score of a soft teacher prefers what is mildest, whatever "
            "helps a student. Calibrate it, or train it without mixing, before you trust the order."
        )
    return is_so + (
        "That is between a soft teacher, whose score prefers the mildest augmentation, and a "
        "certain one, whose score prefers what makes it err. Look at the column error beside it."
    )


def race(table: pd.DataFrame) -> str:
    """How a race went; "" if there was none."""
    if "share" not in table.attrs:
        return ""
    ends = {
        "settled": "It ended when the order was settled",
        "budget": "It ended when the budget was spent",
        "images": "It ended when all images had been used",
    }
    states = table["state"].value_counts()
    counts = ", ".join(f"{states[state]} {state}" for state in states.index)
    most, least = table["images"].max(), table["images"].min()
    return (
        f"{ends[table.attrs['stopped']]}, after {table.attrs['share']:.1%} of all passes: {counts}."
        f" The first candidates were judged by {most:,d} images, those that fell behind early by "
        f"{least:,d}. The order is right with a probability of {table.attrs['confidence']:.0%} "
        "where it is settled."
    )


def _bars(table: pd.DataFrame) -> list[tuple[float, float, float] | None]:
    """Interval and score of each row on a scale from 0 to 100."""
    if "score_low" not in table:
        return [None] * len(table)
    low, high = table["score_low"].min(), table["score_high"].max()
    width = (high - low) or 1.0
    ends = table[["score_low", "score", "score_high"]]
    return [tuple(round(1 + 98 * (x - low) / width, 2) for x in row) for row in ends.to_numpy()]


def page(table: pd.DataFrame, facts: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """One HTML file of a ranking.

    table     of `scoring.rank` or `rank_within`. facts  as `paperlib rank` writes them as JSON.
    pictures  by candidate, and "" for the images as they are, JPEGs.
    """
    shown, bars, labels = cells(table), _bars(table), cells(table, ("score",))
    rows = []
    for texts, label, values, bar in zip(
        shown, labels, table.to_dict("records"), bars, strict=True
    ):
        name = values["augmentation"]
        picture = base64.b64encode(pictures[name]).decode()
        pairs = [(text, values[column]) for column, text in texts.items()]
        rows.append(
            {"name": name, "cells": pairs, "bar": bar, "label": label["score"], "picture": picture}
        )
    environment = Environment(
        loader=PackageLoader("paperlib.reporting", "."), autoescape=True, undefined=StrictUndefined
    )
    cards = (
        (f"{facts['accuracy']:.1%}", f"of {facts['looked_at']:,d} pictures known as they are"),
        (f"{facts['confidence']:.2f}", "confidence on them"),
        (f"{facts['images']:,d}", "pictures"),
        (len(facts["classes"]), "classes"),
        (len(table), "candidates"),
    )
    return environment.get_template("ranking.html.j2").render(
        title=f"Which augmentation for {facts['teacher']}?",
        summary=summary(table),
        cards=cards,
        warnings=facts["warnings"],
        columns=list(shown[0]),
        rows=rows,
        meaning=meaning(facts["confidence"], len(facts["classes"])),
        seen=facts["seen"],
        plain=base64.b64encode(pictures[""]).decode(),
        classes=[(each["name"], each["output"], each["images"]) for each in facts["classes"]],
        skipped=facts["skipped"],
        race=race(table),
        command=facts["command"],
        versions=facts["versions"],
    )
