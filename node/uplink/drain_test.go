package uplink

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"gw/node/edgestore"
	"gw/rpc/gwv1"
)

// taker is a hub's plugins: what they were given, each payload once, and what they make of it.
type taker struct {
	hub     *fakeHub
	marks   map[string]uint64 // store and plugin → last number settled
	got     []string          // guarded by the hub's lock, like all
	calls   int
	largest int
	answers []string
	orders  []*gwv1.DeadLetterOrder
	judge   func(p *gwv1.PluginPayload) gwv1.PayloadResult // nil: all are handled
	lose    func() bool                                    // the answer gets lost on its way
}

const (
	handled = gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED
	again   = gwv1.PayloadResult_PAYLOAD_RESULT_RETRY
	dead    = gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER
)

func newTaker(h *fakeHub) *taker {
	k := &taker{hub: h, marks: map[string]uint64{}}
	h.onBatch = k.take
	return k
}

func markOf(store []byte, plugin uint32) string { return fmt.Sprintf("%x/%d", store, plugin) }

func (k *taker) take(r *gwv1.SendPluginControlBatchRequest) (*gwv1.SendPluginControlBatchResponse, error) {
	k.calls++
	k.largest = max(k.largest, len(r.Payloads))
	answer := &gwv1.SendPluginControlBatchResponse{Orders: k.orders}
	for _, a := range r.Answers {
		k.answers = append(k.answers, fmt.Sprint(a.Id, " ", a.Gone))
		k.orders = slices.DeleteFunc(slices.Clone(k.orders), func(o *gwv1.DeadLetterOrder) bool { return o.Id == a.Id })
	}
	answer.Orders = k.orders
	halted := map[uint32]bool{}
	for _, p := range r.Payloads {
		name := markOf(p.StoreId, p.PluginId)
		o := &gwv1.PayloadOutcome{Result: handled}
		switch {
		case halted[p.PluginId]:
			o.Result = again
		case p.Sequence <= k.marks[name]:
			o.Result = gwv1.PayloadResult_PAYLOAD_RESULT_REPEATED
		default:
			if k.judge != nil {
				o.Result = k.judge(p)
			}
			if o.Result == again {
				halted[p.PluginId], o.Reason = true, "not now"
				break
			}
			if o.Result == dead {
				o.DeadLetterId = name + fmt.Sprint(p.Sequence)
			} else {
				k.got = append(k.got, fmt.Sprintf("%d:%s", p.PluginId, p.Payload))
			}
			k.marks[name] = p.Sequence
		}
		answer.Outcomes = append(answer.Outcomes, o)
	}
	for _, m := range r.Marks {
		answer.Marks = append(answer.Marks, &gwv1.PluginMark{StoreId: m.StoreId, PluginId: m.PluginId, Sequence: k.marks[markOf(m.StoreId, m.PluginId)]})
	}
	if k.lose != nil && k.lose() {
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("the answer was lost"))
	}
	k.hub.changedLocked()
	return answer, nil
}

// await waits until what the hub has is as wanted.
func (k *taker) await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		k.hub.mu.Lock()
		met, changed := ok(), k.hub.changed
		k.hub.mu.Unlock()
		if met {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			k.hub.mu.Lock()
			defer k.hub.mu.Unlock()
			t.Fatalf("%s: it did not come to that: got %v, answers %v", what, k.got, k.answers)
		}
	}
}

func spoolFor(t *testing.T, e *testEdge, dir string) *edgestore.Spool {
	t.Helper()
	s, err := edgestore.OpenSpool(edgestore.SpoolConfig{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	e.config.Spool = s
	return s
}

func send(t *testing.T, s *edgestore.Spool, plugin uint32, payload string) {
	t.Helper()
	if _, err := s.Send(t.Context(), plugin, []byte(payload), "", nil); err != nil {
		t.Fatal(err)
	}
}

func empty(s *edgestore.Spool) func() bool {
	return func() bool { n, _, _ := s.Totals(); return n == 0 }
}

// settledAll waits until the spool is empty.
func settledAll(t *testing.T, s *edgestore.Spool) {
	t.Helper()
	for until := time.Now().Add(30 * time.Second); !empty(s)(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("still pending: %v", s.Queues())
		}
	}
}

func TestPayloadsAreBroughtInOrderUntilTheSpoolIsEmpty(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	e := newTestEdge(t, h)
	s := spoolFor(t, e, t.TempDir())
	var want []string
	for i := range 250 {
		send(t, s, 7, fmt.Sprint(i))
		want = append(want, fmt.Sprint("7:", i))
	}
	e.start()
	settledAll(t, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(k.got, want) {
		t.Errorf("got %v", k.got)
	}
	if k.largest > edgestore.BatchPayloads {
		t.Errorf("a batch of %d", k.largest)
	}
}

func TestOnePluginThatIsNotRunningHaltsOnlyItself(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	running := false
	k.judge = func(p *gwv1.PluginPayload) gwv1.PayloadResult {
		if p.PluginId == 7 && !running {
			return again
		}
		return handled
	}
	e := newTestEdge(t, h)
	s := spoolFor(t, e, t.TempDir())
	for i := range 3 {
		send(t, s, 7, fmt.Sprint(i))
		send(t, s, 8, fmt.Sprint(i))
	}
	e.start()
	k.await(t, "plugin 8 is served", func() bool { return strings.Join(k.got, " ") == "8:0 8:1 8:2" })
	for until := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		if q := s.Queues(); q[0].Halted == "not now" && q[1].Halted == "" {
			break
		}
		if time.Now().After(until) {
			t.Fatalf("nobody says why: %v", s.Queues())
		}
	}
	h.do(func() { running = true })
	settledAll(t, s)
	for until := time.Now().Add(30 * time.Second); s.Queues()[0].Halted != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("still halted: %v", s.Queues())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := strings.Join(k.got[3:], " "); got != "7:0 7:1 7:2" {
		t.Errorf("got %s", got)
	}
}

// slowSpool takes long to find that all it has waits.
type slowSpool struct {
	Spool
	took time.Duration
}

func (s slowSpool) Batch(_ context.Context, skip func(uint32) bool) ([]*gwv1.PluginPayload, func([]*gwv1.PayloadOutcome) error, error) {
	if !skip(7) {
		return nil, nil, errors.New("plugin 7 waits no more")
	}
	time.Sleep(s.took)
	return nil, nil, nil
}

func (slowSpool) Answers() ([]*gwv1.DeadLetterAnswer, error) { return nil, nil }

func (slowSpool) Totals() (payloads, bytes, deadLetters int64) { return 1, 1, 0 }

func TestAPluginWhoseTimeComesWhileTheSpoolIsLookedThroughIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		due := time.Now().Add(time.Second)
		d := &drainer{Uplink: &Uplink{}, spool: slowSpool{took: 2 * time.Second}, halted: map[uint32]*halt{7: {failed: 1, until: due}}}
		if err := d.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if next := d.next(); !next.Equal(due) {
			t.Errorf("it is tried again at %v, want %v", next, due)
		}
	})
}

func TestPayloadsWhoseAnswerWasLostAreSettledOnce(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	n := 0
	k.lose = func() bool { n++; return n%3 != 0 }
	e := newTestEdge(t, h)
	s := spoolFor(t, e, t.TempDir())
	for i := range 120 {
		send(t, s, 7, fmt.Sprint(i))
	}
	e.start()
	settledAll(t, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(k.got) != 120 || len(slices.Compact(slices.Sorted(slices.Values(k.got)))) != 120 {
		t.Errorf("the hub settled %d payloads of 120: %v", len(k.got), k.got)
	}
}

func TestOrdersAboutDeadLettersAreDoneAndAnswered(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	k.judge = func(p *gwv1.PluginPayload) gwv1.PayloadResult { return dead }
	e := newTestEdge(t, h)
	s := spoolFor(t, e, t.TempDir())
	send(t, s, 7, "a")
	send(t, s, 7, "b")
	e.start()
	settledAll(t, s)
	if _, _, letters := s.Totals(); letters != 2 {
		t.Fatalf("%d dead letters, want 2", letters)
	}
	h.do(func() {
		k.judge = nil
		for name, last := range k.marks {
			k.orders = []*gwv1.DeadLetterOrder{
				{Id: name + fmt.Sprint(last-1), Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER},
				{Id: name + fmt.Sprint(last), Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_DROP},
			}
		}
	})
	wake(e.uplink.drainNow)
	k.await(t, "redelivered", func() bool { return strings.Join(k.got, " ") == "7:a" && len(k.answers) == 2 })
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, a := range k.answers {
		if !strings.HasSuffix(a, " false") {
			t.Errorf("answered %s", a)
		}
	}
	if _, _, letters := s.Totals(); letters != 0 {
		t.Errorf("%d dead letters are left", letters)
	}
}

// A plugin that is halted with much in the spool wakes drain with each Send. That is no reason to call the hub.
func TestOrdersAreNotAskedForWithEverySend(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	k.judge = func(p *gwv1.PluginPayload) gwv1.PayloadResult {
		if p.PluginId == 7 {
			return again
		}
		return dead
	}
	e := newTestEdge(t, h)
	s, err := edgestore.OpenSpool(edgestore.SpoolConfig{Dir: t.TempDir(), Unsynced: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e.start() // without the spool: the test is its drainer
	await(t, "the edge follows", func() bool {
		e.uplink.mu.Lock()
		defer e.uplink.mu.Unlock()
		return e.uplink.streams > 0
	})
	d := &drainer{Uplink: e.uplink, spool: s, halted: map[uint32]*halt{}}
	round := func(what string, calls int) {
		t.Helper()
		h.mu.Lock()
		before := k.calls
		h.mu.Unlock()
		if err := d.round(t.Context()); err != nil {
			t.Fatal(err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if n := k.calls - before; n != calls {
			t.Errorf("%s: %d calls, want %d", what, n, calls)
		}
	}
	send(t, s, 8, "nobody's")
	for range edgestore.DrainFrom {
		send(t, s, 7, "halted")
	}
	round("marks and a batch", 2)
	if _, _, letters := s.Totals(); letters != 1 || d.halted[7] == nil {
		t.Fatalf("%d dead letters, halted %v", letters, d.halted)
	}
	d.halted[7].until = time.Now().Add(time.Hour)
	for range 20 {
		send(t, s, 7, "more")
		select {
		case <-s.Full():
		default:
			t.Fatal("Send did not wake")
		}
		round("after a Send", 0)
	}
	d.ask = true
	round("after a heartbeat", 1)
	round("and once only", 0)
	d.asked = d.asked.Add(-askEvery)
	round("without heartbeats", 1)
}

func TestACloneThatRanAheadLosesNothing(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	e := newTestEdge(t, h)
	s := spoolFor(t, e, t.TempDir())
	send(t, s, 7, "a")
	send(t, s, 7, "b")
	marks, err := s.Marks()
	if err != nil {
		t.Fatal(err)
	}
	k.marks[markOf(marks[0].StoreId, 7)] = 5 // what a copy of this very process has sent meanwhile
	e.start()
	settledAll(t, s)
	h.mu.Lock()
	defer h.mu.Unlock()
	if got := strings.Join(k.got, " "); got != "7:a 7:b" {
		t.Errorf("got %q, want both", got)
	}
}

func TestHeartbeatsTellOfQueues(t *testing.T) {
	h := newFakeHub(t)
	k := newTaker(h)
	k.judge = func(p *gwv1.PluginPayload) gwv1.PayloadResult { return again }
	e := newTestEdge(t, h)
	e.config.Plugins = func() []*gwv1.PluginProcess { return []*gwv1.PluginProcess{{Id: 7, Name: "cache"}} }
	s := spoolFor(t, e, t.TempDir())
	send(t, s, 7, "a")
	e.start()
	receive(t, "a heartbeat with the queue", h.beats, func(b *gwv1.HeartbeatRequest) bool {
		return len(b.Queues) == 1 && b.Queues[0].PluginId == 7 && b.Queues[0].Pending == 1 && b.Queues[0].Halted == "not now" &&
			b.Queues[0].Oldest != nil && len(b.Plugins) == 1 && b.Plugins[0].Name == "cache"
	})
}
