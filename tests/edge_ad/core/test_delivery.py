"""The bookkeeping of delivery, against a simulated outbox and broker that acknowledge, refuse and break at will."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_ad.core import messages
from edge_ad.core.alarm_board import DEFECT, Announcement
from edge_ad.core.alarms import AlarmEvent
from edge_ad.core.delivery import ROWS_A_COPY, Copy, Delivery, Outgoing, Reply, render
from edge_ad.core.messages import Message, StationContext
from edge_ad.core.replay import COPY_ROWS, Replay
from edge_ad.core.rows import PLC, RESULT, Parcel, Piece, Row, pieces
from edge_ad.core.spans import Span
from edge_ad.records import Decision, Event

CONTEXT = StationContext("press-3", "boot", "digest", simulated=False)
STATE = Message("edge-ad/press-3/health", b"1", 1, retain=True)


def make_row(seq: int, *, alarm: bool = False) -> Row:
    event = Event("top", seq, None, None, 0, Decision("ok", None, 0.1, 0.2))
    told = Announcement(DEFECT, "high", AlarmEvent("cleared", 0, "normal", 1, seq, 0.1))
    events = (messages.alarm_event_body(CONTEXT, "top", seq, told, event),) if alarm else ()
    return Row(seq, messages.result_body(CONTEXT, seq, event), events)


@dataclass
class World:
    """An outbox of unsent rows and a wire that remembers what was sent."""

    delivery: Delivery = field(default_factory=lambda: Delivery(1.0, 8.0))
    unsent: dict[int, Row] = field(default_factory=dict)
    kept: dict[int, Row] = field(default_factory=dict)  # of replays, in order
    flying: dict[int, Outgoing] = field(default_factory=dict)
    sent: list[Outgoing] = field(default_factory=list)
    now_s: float = 0.0
    window: int = 0
    stored: set[int] = field(default_factory=set)

    def store(self, row: Row, deadline_s: float = 0.0) -> None:
        self.unsent[row.id] = row
        self.delivery.rows.put_fresh(row, deadline_s, self.now_s, online=self.delivery.online)

    def connect(self, window: int) -> None:
        self.flying.clear()
        self.delivery.connected(window)

    def feed(self) -> None:
        while True:
            wanted = self.delivery.wanted(self.now_s)
            if wanted is not None:
                later = [row for seq, row in sorted(self.unsent.items()) if seq > wanted.after_id]
                self.delivery.rows.offer(later[: wanted.limit])
            copies = self.delivery.wanted_copies()
            if copies is not None:
                ids = range(copies.ids.first, copies.ids.last + 1)
                kept = [row for row_id, row in self.kept.items() if row_id in ids]
                self.delivery.replays.offer(kept[:COPY_ROWS])
            outgoing = self.delivery.next(self.now_s)
            if outgoing is None:
                return
            ticket = len(self.sent)
            self.sent.append(outgoing)
            self.flying[ticket] = outgoing
            self.delivery.sent(ticket, outgoing, topic_of(outgoing))

    def answer(self, ticket: int, refusal: str = "") -> None:
        del self.flying[ticket]
        self.delivery.acknowledged(ticket, refusal, self.now_s)
        for seq in self.delivery.rows.take_done():
            del self.unsent[seq]

    def answer_all(self) -> None:
        while self.flying:
            self.answer(next(iter(self.flying)))
            self.feed()

    def pieces_sent(self) -> list[tuple[int, Piece]]:
        return [(each.row.id, each.piece) for each in self.sent if isinstance(each, Parcel)]

    def copies_sent(self) -> list[tuple[int, Piece]]:
        return [(each.parcel.row.id, each.parcel.piece) for each in self.sent if isinstance(each, Copy)]

    def act(self, action: str, value: int) -> None:
        """One thing that can happen; `value` chooses which."""
        if action == "store":
            seq = max([0, *self.stored]) + 1
            self.stored.add(seq)
            self.store(make_row(seq, alarm=value % 2 == 1), self.now_s + 2)
        elif action == "state":
            self.delivery.states.put(Message(STATE.topic, str(value).encode(), 1, retain=True))
        elif action == "replay":
            self.kept = {seq: make_row(seq) for seq in range(1, 50)}
            self.delivery.replays.ask(Replay(Span(value, value + 20)))
        elif action == "connect":
            self.window = value + 1
            self.connect(self.window)
        elif action == "disconnect":
            self.window = 0
            self.flying.clear()
            self.delivery.disconnected()
        elif action == "wait":
            self.now_s += value
        elif self.flying:
            ticket = list(self.flying)[value % len(self.flying)]
            self.answer(ticket, "Not authorized" if action == "refuse" else "")


def test_a_reply_goes_at_once_or_never() -> None:
    world = World()
    world.delivery.put_reply(Message("edge-ad/press-3/reply/status", b"1", 1, retain=False))
    world.connect(1)
    world.feed()
    assert world.sent == []
    world.unsent[1] = make_row(1)
    world.delivery.rows.more()
    reply = Message("edge-ad/press-3/reply/status", b"2", 1, retain=False)
    world.delivery.put_reply(reply)
    world.feed()
    assert world.sent[0] == Reply(reply)
    world.answer(0, "Not authorized")
    assert world.delivery.refusal == "edge-ad/press-3/reply/status: Not authorized"


def topic_of(outgoing: Outgoing) -> str:
    if isinstance(outgoing, Reply):
        return outgoing.message.topic
    if isinstance(outgoing, Message):
        return outgoing.topic
    parcel = outgoing.parcel if isinstance(outgoing, Copy) else outgoing
    return render(parcel, left_s=1.0, published_ms=0, historical_after_ms=0).topic


ACTIONS = ["store", "state", "replay", "connect", "disconnect", "wait", "take", "refuse"]


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 30)), max_size=60))
def test_whatever_happens_every_row_is_done_once_when_the_broker_takes_it(steps: list[tuple[str, int]]) -> None:
    world = World()
    for action, value in steps:
        world.act(action, value)
        world.feed()
        assert len(world.flying) == world.delivery.in_flight <= world.window
    if not world.delivery.online:
        world.act("connect", 5)
    for _ in range(200):
        world.now_s += 10
        world.feed()
        world.answer_all()
    assert not world.unsent  # and none was done twice, or `answer` would have failed
    assert world.delivery.refusal == ""


@given(st.lists(st.booleans(), max_size=80), st.integers(1, 40))
def test_rows_leave_in_order_and_completely_and_once(alarms: list[bool], window: int) -> None:
    world = World()
    for seq, alarm in enumerate(alarms, start=1):
        world.store(make_row(seq, alarm=alarm))
    world.connect(window)
    world.feed()
    world.answer_all()
    wanted = [(seq, piece) for seq, alarm in enumerate(alarms, start=1) for piece in pieces(make_row(seq, alarm=alarm))]
    assert world.pieces_sent() == wanted
    assert not world.unsent


def test_a_fresh_plc_overtakes_the_backlog() -> None:
    world = World()
    for seq in range(1, 101):
        world.store(make_row(seq))
    world.connect(8)
    world.feed()
    world.store(make_row(101))
    world.feed()
    assert world.pieces_sent()[-1] == (101, PLC)
    assert len(world.flying) <= 8


def test_a_plc_that_was_acknowledged_ahead_is_not_sent_again_even_after_a_reconnect() -> None:
    world = World()
    world.connect(1)
    world.store(make_row(1))
    world.feed()
    assert world.pieces_sent() == [(1, PLC)]
    world.answer(0)
    world.connect(1)
    world.feed()
    world.answer_all()
    assert world.pieces_sent() == [(1, PLC), (1, RESULT)]
    assert not world.unsent


def test_a_part_that_only_a_gap_speaks_of_sends_its_plc_and_nothing_else() -> None:
    world = World()
    world.connect(4)
    gap = messages.gap_body(CONTEXT, 1, 1, "outbox_full", 0)
    world.unsent[1] = Row(1, gap)
    world.delivery.rows.put_fresh(Row(-1, make_row(1).body, stored=False), 1.0, 0.0, online=True)
    world.feed()
    world.answer_all()
    assert world.pieces_sent() == [(-1, PLC), (1, RESULT)]
    assert not world.unsent


def test_a_verdict_is_late_after_its_deadline_and_for_parts_of_another_process() -> None:
    rows = Delivery(1.0, 8.0).rows
    rows.put_fresh(make_row(7), 10.0, 9.0, online=False)
    assert [rows.left_s(7, now_s) for now_s in (9.5, 10.0, 10.5)] == [0.5, 0.0, -0.5]
    assert rows.left_s(6, 9.5) < 0


def test_a_refused_row_holds_up_no_other_and_is_tried_again_alone() -> None:
    world = World()
    for seq in range(1, 6):
        world.store(make_row(seq))
    world.connect(1)
    world.feed()
    world.answer(0, "Not authorized")
    assert world.delivery.refusal == "edge-ad/press-3/result: Not authorized"
    world.feed()
    assert not world.flying  # a pause
    world.now_s = 1.0
    world.feed()
    while 1 not in {seq for seq, _ in world.pieces_sent()[1:]}:
        world.answer(next(iter(world.flying)))
        world.feed()
    assert sorted(world.unsent) == [1]  # the others went first
    world.answer_all()
    assert not world.unsent
    assert world.delivery.refusal == ""


def test_only_what_is_missing_of_a_refused_row_is_sent_again() -> None:
    world = World()
    world.store(make_row(1, alarm=True))
    world.connect(4)
    world.feed()
    result, event, plc = list(world.flying)
    world.answer(event, "Quota exceeded")
    world.answer(result)
    world.answer(plc)
    world.now_s = 1.0
    world.feed()
    assert world.pieces_sent()[3:] == [(1, Piece("event", 0))]


def test_when_a_refused_row_is_taken_at_last_all_refused_rows_are_sent_together() -> None:
    world = World()
    for seq in range(1, 4):
        world.store(make_row(seq))
    world.connect(12)
    world.feed()
    for ticket, outgoing in list(world.flying.items()):
        world.answer(ticket, "Not authorized" if outgoing.piece == RESULT else "")  # type: ignore[union-attr]
    world.now_s = 8.0
    world.feed()
    assert len(world.flying) == 1  # one is tried
    world.answer(next(iter(world.flying)))
    world.feed()
    assert len(world.flying) == 2


def test_a_row_that_was_asked_for_again_while_it_was_flying_is_not_sent_twice() -> None:
    """When the first refused row is taken, all that is unsent is asked for; with no room left, it waits."""
    world = World()
    for seq in range(1, 5):
        world.store(make_row(seq))
    world.connect(6)  # of which rows take five
    world.feed()
    for ticket, outgoing in list(world.flying.items()):
        if outgoing.row.id < 3:  # type: ignore[union-attr]
            world.answer(ticket, "Quota exceeded" if outgoing.piece == RESULT else "")  # type: ignore[union-attr]
    world.now_s = 8.0
    world.feed()
    (retried,) = [ticket for ticket, outgoing in world.flying.items() if outgoing.row.id == 1]  # type: ignore[union-attr]
    world.answer(retried)
    world.feed()
    for ticket in list(world.flying):  # before there is room
        world.answer(ticket)
    world.feed()
    assert not world.flying
    assert not world.unsent
    again = [piece for piece, times in Counter(world.pieces_sent()).items() if times > 1]
    assert again == [(1, RESULT), (2, RESULT)]


def test_the_delay_between_refusals_grows_and_is_bounded() -> None:
    world = World()
    world.store(make_row(1))
    world.connect(1)
    world.feed()
    waits = []
    for _ in range(6):
        world.answer(next(iter(world.flying)), "Not authorized")
        began_s = world.now_s
        while not world.flying:
            world.now_s += 0.5
            world.feed()
        waits.append(world.now_s - began_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_of_a_state_only_the_newest_is_sent_and_one_at_a_time() -> None:
    world = World()
    world.connect(8)
    world.delivery.states.put(STATE)
    world.feed()
    for payload in (b"2", b"3"):
        world.delivery.states.put(Message(STATE.topic, payload, 1, retain=True))
        world.feed()
    assert world.sent == [STATE]
    world.answer_all()
    assert [message.payload for message in world.sent if isinstance(message, Message)] == [b"1", b"3"]


def test_every_connection_begins_with_all_states_in_the_order_of_their_first_appearance() -> None:
    world = World()
    topics = ["edge-ad/press-3/status", "edge-ad/press-3/camera/top", "edge-ad/press-3/health"]
    for topic in topics:
        world.delivery.states.put(Message(topic, b"x", 1, retain=True))
    world.store(make_row(1))
    for _ in range(2):
        world.connect(16)
        world.feed()
        assert [topic_of(each) for each in world.sent[:3]] == topics
        world.sent.clear()


def test_what_the_broker_shall_forget_is_over_once_it_has_it() -> None:
    world = World()
    gone = Message("edge-ad/press-3/camera/top", b"", 1, retain=True)
    world.delivery.states.put(STATE)
    world.delivery.states.put(gone)
    world.connect(8)
    world.feed()
    world.connect(8)
    world.feed()
    assert world.delivery.states.clears
    world.answer_all()
    assert not world.delivery.states.clears
    world.sent.clear()
    world.connect(8)
    world.feed()
    assert world.sent == [STATE]


def test_a_refused_state_is_tried_again_and_holds_up_nothing() -> None:
    world = World()
    world.delivery.states.put(STATE)
    world.connect(8)
    world.feed()
    world.answer(0, "Not authorized")
    world.store(make_row(1))
    world.feed()
    world.answer_all()
    assert not world.unsent
    assert world.delivery.refusal == "edge-ad/press-3/health: Not authorized"
    world.now_s = 1.0
    world.feed()
    world.answer_all()
    assert world.delivery.refusal == ""


def test_a_topic_over_which_the_connection_keeps_breaking_is_named() -> None:
    """A broker of MQTT 3.1.1 can say no only by hanging up."""
    world = World()
    world.store(make_row(1))
    for _ in range(3):
        assert world.delivery.refusal == ""
        world.connect(4)
        world.feed()
        world.flying.clear()
        world.delivery.disconnected()
    assert world.delivery.refusal.startswith("edge-ad/press-3/result: the broker ends the connection")
    world.connect(4)
    world.feed()
    world.answer_all()
    assert world.delivery.refusal == ""


def test_a_gap_record_is_one_message() -> None:
    gap = messages.gap_body(CONTEXT, 5, 9, "outbox_full", 0)
    assert pieces(Row(5, gap)) == [RESULT]
    assert render(Parcel(Row(5, gap), RESULT), left_s=1.0, published_ms=1, historical_after_ms=1).topic.endswith(
        "/result"
    )


def with_kept_rows(count: int, *, alarm: bool = False) -> World:
    return World(kept={seq: make_row(seq, alarm=alarm) for seq in range(1, count + 1)})


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 60))
def test_copies_are_those_that_were_asked_for_in_order_and_without_their_plc(
    window: int, first: int, length: int
) -> None:
    world = with_kept_rows(60, alarm=True)
    world.delivery.replays.ask(Replay(Span(first, first + length)))
    world.connect(window)
    world.feed()
    world.answer_all()
    wanted = range(first, min(60, first + length) + 1)
    assert world.copies_sent() == [(seq, piece) for seq in wanted for piece in (RESULT, Piece("event"))]


@given(st.integers(1, 40), st.integers(1, 200))
def test_behind_rows_that_wait_copies_have_a_small_share_and_no_more(window: int, rows: int) -> None:
    world = with_kept_rows(100)
    world.delivery.replays.ask(Replay(Span(1, 100)))
    for seq in range(201, 201 + rows):
        world.store(make_row(seq))
    world.connect(window)
    world.feed()
    while world.unsent or world.flying:
        world.answer(next(iter(world.flying)))
        world.feed()
        assert sum(isinstance(each, Copy) for each in world.flying.values()) <= max(1, window // 4)
    last_row = max(place for place, each in enumerate(world.sent) if isinstance(each, Parcel))
    kinds = [isinstance(each, Copy) for each in world.sent[: last_row + 1]]
    copies = sum(kinds)
    assert copies <= (len(kinds) - copies) // ROWS_A_COPY
    assert copies >= min(100, (len(kinds) - copies - 1) // ROWS_A_COPY)
    assert len(world.copies_sent()) == 100


def test_copies_hold_up_nothing_that_is_for_now() -> None:
    world = with_kept_rows(100)
    world.delivery.replays.ask(Replay(Span(1, 100)))
    world.connect(8)
    world.feed()
    assert len(world.flying) == 2
    world.store(make_row(201))
    world.feed()
    assert world.pieces_sent()[:1] == [(201, PLC)]


def test_a_copy_that_was_on_its_way_when_the_connection_broke_is_sent_again_and_a_refused_one_is_not() -> None:
    world = with_kept_rows(6)
    world.delivery.replays.ask(Replay(Span(1, 6)))
    world.connect(8)
    world.feed()
    assert world.copies_sent() == [(1, RESULT), (2, RESULT)]
    world.answer(0, "Not authorized")
    assert world.delivery.refusal == "edge-ad/press-3/result: Not authorized"
    world.flying.clear()
    world.delivery.disconnected()
    world.connect(8)
    world.feed()
    world.answer_all()
    assert [seq for seq, _ in world.copies_sent()[2:]] == [2, 3, 4, 5, 6]
    assert world.delivery.refusal == ""


def test_a_replay_of_alarm_events_sends_no_results() -> None:
    world = with_kept_rows(30, alarm=True)
    world.delivery.replays.ask(Replay(Span(5, 25), "events"))
    world.connect(8)
    world.feed()
    world.answer_all()
    assert world.copies_sent() == [(seq, Piece("event")) for seq in range(5, 26)]


def test_what_is_no_longer_kept_ends_a_replay() -> None:
    world = with_kept_rows(0)
    world.delivery.replays.ask(Replay(Span(1, 6)))
    world.connect(8)
    world.feed()
    assert (world.sent, world.delivery.replays.wanted()) == ([], None)


def test_a_decision_expires_with_its_deadline_and_a_result_never() -> None:
    row = make_row(1)
    for left_s, expiry_s, late in ((4.2, 5, False), (0.2, 1, False), (-1.0, 1, True), (float("-inf"), 1, True)):
        plc = render(Parcel(row, PLC), left_s=left_s, published_ms=0, historical_after_ms=0)
        assert (plc.expiry_s, b'"late"' in plc.payload) == (expiry_s, late)
    assert render(Parcel(row, RESULT), left_s=1.0, published_ms=0, historical_after_ms=0).expiry_s is None
