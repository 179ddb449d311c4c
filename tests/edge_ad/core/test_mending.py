"""What is missing is asked for, politely, until it has come or is known to be gone, whatever is lost on the way."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.core.commands import Request, parse
from edge_ad.core.heard import Replied
from edge_ad.core.mending import NEAR, Mender, Missing, Patience, Question
from edge_ad.core.replay import MAX_NUMBERS, Numbered
from edge_ad.core.spans import Span, Spans

PATIENCE = Patience(settle_s=2.0, reply_s=2.0, arrive_s=5.0, longest_s=60.0)
TURN_S = 1.0
NOTHING: dict[Numbered, Spans] = {"parts": Spans(), "events": Spans()}


def missing(parts: Spans | None = None, events: Spans | None = None) -> dict[Numbered, Spans]:
    return {"parts": parts or Spans(), "events": events or Spans()}


def numbers(spans: Spans) -> set[int]:
    return {number for span in spans for number in range(span.first, span.last + 1)}


@dataclass
class Station:
    """Answers questions, when its luck allows: questions, replies and copies may be lost, or it is too busy."""

    chance: random.Random
    luck: float
    missing: dict[Numbered, Spans]
    kept: dict[Numbered, set[int]]
    asked: list[tuple[float, Question]] = field(default_factory=list)
    answers: dict[str, Replied] = field(default_factory=dict)

    def take(self, question: Question, at_s: float) -> Replied | None:
        self.asked.append((at_s, question))
        if self.chance.random() > self.luck:
            return None
        first_time = question.correlation_id not in self.answers
        reply = self.answers.setdefault(question.correlation_id, self._reply(question))
        if first_time and reply.done:
            for number in range(question.span.first, question.span.last + 1):
                if number in self.kept[question.of] and self.chance.random() <= self.luck:
                    self.missing[question.of].discard(Span(number, number))
        return reply if self.chance.random() <= self.luck else None

    def _reply(self, question: Question) -> Replied:
        if self.chance.random() > self.luck:
            return Replied(question.correlation_id, False, "8 replays wait already")
        gone = Spans([question.span]).without([Span(number, number) for number in self.kept[question.of]])
        told = tuple(gone)[:3]  # the reply has room for a few runs only
        return Replied(question.correlation_id, True, "", question.span, question.of, told)


spans = st.lists(st.builds(lambda a, n: Span(a, a + n), st.integers(1, 300), st.integers(0, 9)), max_size=8)


@settings(max_examples=50)
@given(spans, spans, st.sets(st.integers(1, 310), max_size=40), st.floats(0.6, 1.0), st.integers(0, 9999))
def test_everything_comes_that_is_not_gone_and_the_station_is_not_flooded(
    parts: list[Span], events: list[Span], gone: set[int], luck: float, seed: int
) -> None:
    lost = missing(Spans(parts), Spans(events))
    every = {of: numbers(spans) for of, spans in lost.items()}
    kept: dict[Numbered, set[int]] = {of: set(range(1, 320)) - gone for of in lost}
    station = Station(random.Random(seed), luck, lost, kept)
    mender = Mender("mes", PATIENCE)
    at_s = 0.0
    while mender.can_help(lost) and at_s < 100_000:
        question = mender.due(lost, at_s)
        if question is not None:
            reply = station.take(question, at_s)
            if reply is not None:
                mender.take_reply(reply, at_s)
        at_s += TURN_S
    for of, spans in lost.items():
        assert numbers(spans) <= gone & every[of]
    assert mender.report().gone >= sum(len(numbers(spans)) for spans in lost.values())
    times = [when for when, _ in station.asked]
    assert all(when >= PATIENCE.settle_s for when in times[:1])
    assert mender.report().asked == len({question.correlation_id for _, question in station.asked})
    assert mender.report().asked + mender.report().again == len(times)
    for _, question in station.asked:
        assert isinstance(parse("replay", question.command("press-3").payload), Request)


def ask(mender: Mender, lost: Missing, at_s: float) -> Question:
    question = mender.due(lost, at_s)
    assert question is not None
    return question


def test_what_comes_by_itself_soon_is_not_asked_for() -> None:
    mender = Mender("mes", PATIENCE)
    assert mender.due(missing(Spans([Span(5, 9)])), 0.0) is None
    assert mender.due(missing(Spans([Span(5, 9)])), 1.9) is None
    assert mender.due(missing(Spans([Span(11, 12)])), 2.5) is None
    assert ask(mender, missing(Spans([Span(11, 12)])), 4.5).span == Span(11, 12)


def settled(lost: Missing) -> Mender:
    mender = Mender("mes", PATIENCE)
    assert mender.due(lost, 0.0) is None
    return mender


def test_without_a_reply_the_same_goes_out_again_ever_more_slowly() -> None:
    lost = missing(Spans([Span(5, 9)]))
    mender = settled(lost)
    first = ask(mender, lost, 2.0)
    times = [tick * 0.5 for tick in range(5, 1000) if mender.due(lost, tick * 0.5) == first]
    assert times[:4] == [4.0, 8.0, 16.0, 32.0]
    assert all(later - earlier <= 64.0 for earlier, later in pairwise(times))
    assert mender.report().unheard == len(times)


def test_a_question_that_brings_nothing_is_put_under_a_new_id_ever_more_slowly_after_the_others() -> None:
    lost = missing(Spans([Span(5, 9), Span(100, 100)]), Spans([Span(3, 3)]))
    mender = settled(lost)
    asked: list[tuple[float, Question]] = []
    for tick in range(4, 2000):
        question = mender.due(lost, tick * 0.5)
        if question is not None:
            asked.append((tick * 0.5, question))
            mender.take_reply(Replied(question.correlation_id, True, "", question.span, question.of), tick * 0.5)
    assert {(question.of, question.span) for _, question in asked[:3]} == {
        ("parts", Span(5, 9)),
        ("parts", Span(100, 100)),
        ("events", Span(3, 3)),
    }
    assert len({question.correlation_id for _, question in asked}) == len(asked)
    pauses = [later - earlier for (earlier, _), (later, _) in pairwise(asked)]
    assert sorted(pauses[:6]) == pauses[:6]
    assert pauses[-1] >= 60.0


def test_what_a_question_brings_step_by_step_is_waited_for() -> None:
    whole = Spans([Span(1000, 1999)])
    mender = settled(missing(whole))
    question = ask(mender, missing(whole), 2.0)
    mender.take_reply(Replied(question.correlation_id, True, "", question.span), 2.0)
    for step in range(1, 100):
        whole.discard(Span(1000, 999 + 10 * step))
        assert mender.due(missing(whole), 2.0 + 4.0 * step) is None
    assert mender.report().asked == 1


def test_long_runs_are_asked_for_in_pieces_and_near_ones_together() -> None:
    near = Spans([Span(5, 9), Span(9 + NEAR, 30), Span(31 + NEAR, 50)])
    assert ask(settled(missing(near)), missing(near), 2.0).span == Span(5, 30)
    long = Spans([Span(1, 3 * MAX_NUMBERS)])
    assert ask(settled(missing(long)), missing(long), 2.0).span == Span(1, MAX_NUMBERS)
    scattered = Spans(Span(number, number) for number in range(1, 30_000, 2))
    assert len(ask(settled(missing(scattered)), missing(scattered), 2.0).span) <= MAX_NUMBERS


def test_what_is_gone_is_not_asked_for_again() -> None:
    lost = missing(Spans([Span(5, 9)]))
    mender = settled(lost)
    question = ask(mender, lost, 2.0)
    mender.take_reply(Replied("somebody-else", True, "", question.span, "parts", (Span(1, 99),)), 2.0)
    assert mender.can_help(lost)
    mender.take_reply(Replied(question.correlation_id, True, "", question.span, "parts", (Span(5, 9),)), 2.0)
    assert not mender.can_help(lost)
    assert all(mender.due(lost, 2.0 + tick) is None for tick in range(200))
    assert (mender.report().gone, mender.gone_parts()) == (5, 5)


def test_a_question_is_a_command_as_it_is_documented() -> None:
    message = Question("mes-1", Span(5, 9), "events").command("press-3")
    assert message.topic == "edge-ad/press-3/cmd/replay"
    assert json.loads(message.payload) == {"correlation_id": "mes-1", "from": 5, "to": 9, "of": "events"}
    assert (message.qos, message.retain) == (1, False)
