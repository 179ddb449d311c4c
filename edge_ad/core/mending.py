"""What a consumer asks a station for once more: numbers that are missing, by the command `replay`, until they came.

    missing for `settle_s` --> asked for --> reply "done" --> they come ------------> the next ones
                                         |               --> they are gone ---------> never asked for again
                                         |               --> nothing comes ---------> later, under a new id
                                         --> refused ----------------------------> later, under a new id
                                         --> no reply in time --> the same again, under the same id

One question at a time, and each time that one brings nothing, the next waits twice as long: a line that runs is not
disturbed by somebody who cannot be helped. Times are arguments, seconds of any monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args

from edge_ad.core.backoff import Backoff
from edge_ad.core.heard import Replied
from edge_ad.core.messages import PREFIX, Message, to_json
from edge_ad.core.replay import MAX_NUMBERS, Numbered
from edge_ad.core.spans import Span, Spans

NEAR = 16  # so many numbers that are not missing are asked for, too, if that saves a question
LONGEST_DOUBLINGS = 5  # of the time for a reply
NUMBERED: tuple[Numbered, ...] = get_args(Numbered)

Missing = Mapping[Numbered, Spans]


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited.

    Attributes:
        settle_s: for what is missing to come by itself.
        reply_s: for a reply; then the same question goes out again.
        arrive_s: after a reply, or after the last number that came, for the next one; doubled with each question that
            brings nothing,
        longest_s: up to this.
    """

    settle_s: float = 2.0
    reply_s: float = 2.0
    arrive_s: float = 5.0
    longest_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Question:
    """A command `replay` that is sent now."""

    correlation_id: str
    span: Span
    of: Numbered

    def command(self, station: str) -> Message:
        """The message that carries it to a station."""
        fields = {"correlation_id": self.correlation_id, "from": self.span.first, "to": self.span.last, "of": self.of}
        return Message(f"{PREFIX}/{station}/cmd/replay", to_json(fields), 1, retain=False)


@dataclass(frozen=True, slots=True)
class MendReport:
    """What came of the questions.

    Attributes:
        asked: questions, each once.
        again: how often one was sent again for want of a reply.
        refusals: reason -> how many were refused for it.
        gone: numbers of which the station has no row any more, parts and alarm events together.
        unheard: the last questions got no reply at all, so many times.
    """

    asked: int
    again: int
    refusals: dict[str, int]
    gone: int
    unheard: int


@dataclass(slots=True)
class _Open:
    """The question that waits for its answer."""

    question: Question
    sent_s: float
    left: int  # numbers that it has not brought yet
    moved_s: float | None = None  # when something came last; None before its reply
    brought: bool = False


@dataclass(slots=True)
class _Book:
    """What is known of the missing numbers of one kind.

    Attributes:
        gone: the station has said that it has no row of these any more.
        seen: they were missing at `seen_s`.
        past: up to here, a question has just brought nothing.
    """

    gone: Spans = field(default_factory=Spans)
    seen: Spans = field(default_factory=Spans)
    seen_s: float = float("-inf")
    past: int = 0

    def wanted(self, missing: Spans) -> Spans:
        return missing.without(self.gone) if missing else missing

    def overdue(self, missing: Spans, at_s: float, settle_s: float) -> Spans:
        """What was missing already `settle_s` ago and still is, from the place on where the last question ended."""
        if at_s - self.seen_s < settle_s:
            return Spans()
        wanted = self.wanted(missing)
        overdue = wanted.within(self.seen)
        ahead = overdue.without([Span(0, self.past)])
        if not ahead:  # from the beginning again, with what has become missing meanwhile
            self.seen, self.seen_s, self.past = Spans(wanted), at_s, 0
        return ahead or overdue


class Mender:
    """The questions of one consumer to one station."""

    def __init__(self, name: str, patience: Patience) -> None:
        """Nothing was asked yet; `name`: no other consumer and no earlier run has it, for the ids begin with it."""
        self._name = name
        self._patience = patience
        self._open: _Open | None = None
        self._books = {of: _Book() for of in NUMBERED}
        self._backoff = Backoff(patience.arrive_s, patience.longest_s)
        self._wait_s = patience.arrive_s
        self._not_before_s = float("-inf")
        self._asked = self._again = self._unheard = 0
        self._refusals: dict[str, int] = {}

    def due(self, missing: Missing, at_s: float) -> Question | None:
        """What is to be sent now, given what is missing now."""
        if self._open is not None:
            again = self._follow(self._open, missing, at_s)
            if self._open is not None:
                return again
        for of, book in self._books.items():
            overdue = book.overdue(missing[of], at_s, self._patience.settle_s)
            if overdue and at_s >= self._not_before_s:
                return self._ask(_first_piece(overdue), of, missing, at_s)
        return None

    def take_reply(self, reply: Replied, at_s: float) -> None:
        """A reply to some command has come."""
        asked = self._open
        if asked is None or reply.correlation_id != asked.question.correlation_id or asked.moved_s is not None:
            return
        self._unheard = 0
        if reply.done:
            asked.moved_s = at_s
            for span in reply.gone:
                self._books[asked.question.of].gone.add(span)
            return
        self._refusals[reply.reason] = self._refusals.get(reply.reason, 0) + 1
        self._give_up(asked.question, at_s)

    def can_help(self, missing: Missing) -> bool:
        """Whether anything is missing that is not known to be gone."""
        return any(self._books[of].wanted(numbers) for of, numbers in missing.items())

    def gone_parts(self) -> int:
        """How many parts the station has no row of any more, of those that were asked for."""
        return self._books["parts"].gone.count()

    def report(self) -> MendReport:
        """What came of it so far."""
        gone = sum(book.gone.count() for book in self._books.values())
        return MendReport(self._asked, self._again, dict(self._refusals), gone, self._unheard)

    def _ask(self, span: Span, of: Numbered, missing: Missing, at_s: float) -> Question:
        self._asked += 1
        question = Question(f"{self._name}-{self._asked}", span, of)
        self._open = _Open(question, at_s, self._left(question, missing))
        return question

    def _follow(self, asked: _Open, missing: Missing, at_s: float) -> Question | None:
        """What the open question needs: nothing, to be sent again, or to be closed."""
        left = self._left(asked.question, missing)
        if left < asked.left:
            asked.left, asked.brought = left, True
            asked.moved_s = at_s if asked.moved_s is not None else None
        if left == 0:
            self._close()
        elif asked.moved_s is not None:
            if at_s - asked.moved_s >= self._wait_s:
                self._close() if asked.brought else self._give_up(asked.question, at_s)
        elif at_s - asked.sent_s >= self._patience.reply_s * 2 ** min(self._unheard, LONGEST_DOUBLINGS):
            self._again, self._unheard, asked.sent_s = self._again + 1, self._unheard + 1, at_s
            return asked.question
        return None

    def _left(self, question: Question, missing: Missing) -> int:
        return self._books[question.of].wanted(missing[question.of].within([question.span])).count()

    def _close(self) -> None:
        """It has brought something."""
        self._open = None
        self._backoff.reset()
        self._wait_s = self._patience.arrive_s

    def _give_up(self, question: Question, at_s: float) -> None:
        """It has brought nothing: the next one waits longer, and is for something else if there is anything else."""
        self._open = None
        self._books[question.of].past = question.span.last
        self._books[question.of] = self._books.pop(question.of)  # the last in line
        self._wait_s = self._backoff.next_s()
        self._not_before_s = at_s + self._wait_s


def _first_piece(wanted: Spans) -> Span:
    """The first run that is to be asked for, with those near it, as many numbers as a replay may have."""
    runs = iter(wanted)
    piece = next(runs)
    for run in runs:
        if run.first - piece.last > NEAR or run.last - piece.first >= MAX_NUMBERS:
            break
        piece = Span(piece.first, run.last)
    return Span(piece.first, min(piece.last, piece.first + MAX_NUMBERS - 1))
