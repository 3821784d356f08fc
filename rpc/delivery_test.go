package rpc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// receivers are hub plugins in this process.
type receivers struct {
	mu      sync.Mutex
	plugins map[uint32]func(ctx context.Context, p Payload, kv PluginKV) (bool, error)
}

func (r *receivers) set(plugin uint32, f func(ctx context.Context, p Payload, kv PluginKV) (bool, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.plugins == nil {
		r.plugins = map[uint32]func(context.Context, Payload, PluginKV) (bool, error){}
	}
	r.plugins[plugin] = f
}

func (r *receivers) Accept(ctx context.Context, plugin uint32, p Payload, kv PluginKV) (bool, error) {
	r.mu.Lock()
	f, ok := r.plugins[plugin]
	r.mu.Unlock()
	if !ok {
		return false, ErrNoPlugin
	}
	return f(ctx, p, kv)
}

func (r *receivers) Receivers() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.plugins))
}

func (r *receivers) Processes() (all []*gwv1.PluginProcess) {
	for _, id := range r.Receivers() {
		all = append(all, &gwv1.PluginProcess{Id: id, Name: fmt.Sprint("plugin-", id), State: gwv1.PluginState_PLUGIN_STATE_RUNNING})
	}
	return all
}

// withReceivers is a hub whose plugins run in this process.
func withReceivers(t *testing.T) (*harness, *receivers) {
	t.Helper()
	h, r := newHarness(t), &receivers{}
	h.hub.core.plugins = r
	return h, r
}

// add counts a payload into a key: what it says, as a number.
func add(key string) func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
	return func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		was, _, err := kv.Read(ctx, key)
		if err != nil {
			return false, err
		}
		total, _ := strconv.Atoi(string(was))
		n, _ := strconv.Atoi(string(p.Payload))
		return true, kv.Write(ctx, key, strconv.AppendInt(nil, int64(total+n), 10), time.Time{})
	}
}

var storeOne = []byte("0123456789abcdef")

func payload(plugin uint32, sequence uint64, text string) *gwv1.PluginPayload {
	return &gwv1.PluginPayload{StoreId: storeOne, PluginId: plugin, Sequence: sequence, Payload: []byte(text), CorrelationId: "c-" + text[:min(len(text), 100)],
		Metadata: map[string]string{"k": "v"}, SentAt: 1}
}

// bring sends payloads and returns the outcomes in short.
func (e *testEdge) bring(t testing.TB, payloads ...*gwv1.PluginPayload) string {
	t.Helper()
	a, err := e.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Payloads: payloads})
	must(t, err)
	var all []string
	for _, o := range a.Outcomes {
		all = append(all, strings.ToLower(strings.TrimPrefix(o.Result.String(), "PAYLOAD_RESULT_")))
	}
	return strings.Join(all, " ")
}

func (h *harness) pluginKey(plugin uint32, key string) string {
	r, ok := h.store.State().PluginKV(plugin, key, h.clock.now().UnixNano())
	if !ok {
		return "-"
	}
	return string(r.Value)
}

func wantText(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

func TestAPayloadIsHandledOnceAndReadsItsOwnWrites(t *testing.T) {
	h, r := withReceivers(t)
	var got []Payload
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		got = append(got, p)
		if ok, err := add("total")(ctx, p, kv); !ok || err != nil {
			return ok, err
		}
		if err := kv.Write(ctx, "gone", []byte("x"), time.Time{}); err != nil {
			return false, err
		}
		keys, err := kv.List(ctx, "")
		if err != nil || fmt.Sprint(keys) != "[gone total]" {
			return false, fmt.Errorf("listed %v, %v", keys, err)
		}
		was, err := kv.Delete(ctx, "gone")
		if !was || err != nil {
			return false, fmt.Errorf("deleted %v, %v", was, err)
		}
		if _, ok, _ := kv.Read(ctx, "gone"); ok {
			return false, errors.New("read a key it has deleted")
		}
		return true, nil
	})
	e := h.enroll("eu", "e1")
	batch := []*gwv1.PluginPayload{payload(7, 1, "1"), payload(7, 2, "10"), payload(7, 5, "100")}
	before := h.store.State().Index()
	wantText(t, "first", e.bring(t, batch...), "handled handled handled")
	if n := h.store.State().Index() - before; n != 1 {
		t.Errorf("a batch took %d commands", n)
	}
	wantText(t, "total", h.pluginKey(7, "total"), "111")
	wantText(t, "deleted", h.pluginKey(7, "gone"), "-")
	wantText(t, "again", e.bring(t, batch...), "repeated repeated repeated")
	wantText(t, "partly again", e.bring(t, batch[2], payload(7, 6, "1000")), "repeated handled")
	wantText(t, "total", h.pluginKey(7, "total"), "1111")
	if p := got[0]; p.EdgeID != "e1" || p.EdgeNamespace != "eu" || p.CorrelationID != "c-1" || p.Metadata["k"] != "v" || !p.SentAt.Equal(time.Unix(0, 1)) || !p.ReceivedAt.Equal(h.clock.now()) {
		t.Errorf("got %+v", p)
	}
	a, err := e.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Marks: []*gwv1.PluginMark{{StoreId: storeOne, PluginId: 7, Sequence: 3}, {StoreId: storeOne, PluginId: 8}}})
	must(t, err)
	if len(a.Marks) != 2 || a.Marks[0].Sequence != 6 || a.Marks[1].Sequence != 0 {
		t.Errorf("marks %v", a.Marks)
	}
}

func TestAnErrorOfAHandledPayloadIsKept(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		return true, errors.New("it was no JSON")
	})
	wantText(t, "outcome", h.enroll("eu", "e1").bring(t, payload(7, 1, "x")), "handled")
	a, err := h.hub.Plugins.ListPlugins(h.as(RoleViewer), &gwv1.ListPluginsRequest{})
	must(t, err)
	if len(a.Plugins) != 1 || a.Plugins[0].PayloadErrors != 1 || a.Plugins[0].PayloadsSettled != 1 || a.Plugins[0].LastError != "it was no JSON" || a.Plugins[0].Type != "hub" {
		t.Errorf("got %v", a.Plugins)
	}
}

func TestAHaltedPluginHaltsNoOther(t *testing.T) {
	h, r := withReceivers(t)
	running := false
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		if !running {
			return false, fmt.Errorf("plugin 7: %w", ErrPluginNotRunning)
		}
		return add("total")(ctx, p, kv)
	})
	r.set(8, add("total"))
	e := h.enroll("eu", "e1")
	batch := []*gwv1.PluginPayload{payload(7, 1, "1"), payload(8, 1, "1"), payload(7, 2, "1"), payload(8, 2, "1")}
	wantText(t, "first", e.bring(t, batch...), "retry handled retry handled")
	running = true
	wantText(t, "then", e.bring(t, batch...), "handled repeated handled repeated")
	wantText(t, "total", h.pluginKey(7, "total")+h.pluginKey(8, "total"), "22")
}

func TestWhatAPluginDoesNotWantGoesToTheOthersByID(t *testing.T) {
	h, r := withReceivers(t)
	var asked []uint32
	for _, id := range []uint32{12, 7, 3, 9} {
		r.set(id, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
			asked = append(asked, id)
			if err := kv.Write(ctx, "seen", []byte("x"), time.Time{}); err != nil {
				return false, err
			}
			return id == 9 && string(p.Payload) == "wanted", nil
		})
	}
	e := h.enroll("eu", "e1")
	wantText(t, "outcome", e.bring(t, payload(7, 1, "wanted")), "handled")
	wantText(t, "asked", fmt.Sprint(asked), "[7 3 9]")
	wantText(t, "kept of who handled it", h.pluginKey(9, "seen"), "x")
	wantText(t, "kept of who did not", h.pluginKey(7, "seen")+h.pluginKey(3, "seen"), "--")
	asked = nil
	wantText(t, "unwanted", e.bring(t, payload(7, 2, "unwanted"), payload(7, 3, "wanted")), "dead_letter handled")
	wantText(t, "asked", fmt.Sprint(asked), "[7 3 9 12 7 3 9]")
	wantText(t, "nobody's", e.bring(t, payload(5, 1, "unwanted")), "dead_letter")
	letters := h.deadLetters()
	for _, l := range letters {
		if l.Reason != "not_handled" || l.CorrelationId != "c-unwanted" || l.EdgeId != "e1" || l.Sequence != map[uint32]uint64{7: 2, 5: 1}[l.PluginId] {
			t.Errorf("dead letter %v", l)
		}
	}
	if len(letters) != 2 {
		t.Errorf("%d dead letters, want 2", len(letters))
	}
}

func (h *harness) deadLetters() []*gwv1.DeadLetterRecord {
	return slices.Collect(h.store.State().DeadLetters())
}

func TestAPayloadThatBreaksItsPluginThreeTimesIsADeadLetter(t *testing.T) {
	h, r := withReceivers(t)
	calls := 0
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		if string(p.Payload) == "0" {
			calls++
			if err := kv.Write(ctx, "total", []byte("1000"), time.Time{}); err != nil {
				return false, err
			}
			if calls == 2 {
				return false, ErrPluginTooSlow
			}
			return false, ErrPluginCrashed
		}
		return add("total")(ctx, p, kv)
	})
	e := h.enroll("eu", "e1")
	batch := []*gwv1.PluginPayload{payload(7, 1, "1"), payload(7, 2, "0"), payload(7, 3, "1")}
	wantText(t, "first", e.bring(t, batch...), "handled retry retry")
	wantText(t, "second", e.bring(t, batch[1:]...), "retry retry")
	wantText(t, "third", e.bring(t, batch[1:]...), "dead_letter handled")
	wantText(t, "total", h.pluginKey(7, "total"), "2")
	if l := h.deadLetters(); len(l) != 1 || l[0].Reason != "crashed" || !strings.Contains(l[0].Message, "3 times") {
		t.Errorf("dead letters %v", l)
	}
	wantText(t, "again", e.bring(t, batch...), "repeated dead_letter repeated")
}

// The edge that has not heard that a payload is a dead letter sends it again, and deletes it if it is told anything else.
func TestADeadLetterWhoseAnswerWasLostIsStillOne(t *testing.T) {
	h, r := withReceivers(t)
	e := h.enroll("eu", "e1")
	lost := payload(5, 1, "unwanted")
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) { return false, nil })
	wantText(t, "the answer that is lost", e.bring(t, lost), "dead_letter")
	id := h.deadLetters()[0].Id
	wantRepeated := func(what, result, state string, orders int) {
		t.Helper()
		before := h.store.State().Index()
		a, err := e.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Payloads: []*gwv1.PluginPayload{lost}})
		must(t, err)
		o := a.Outcomes[0]
		if got := strings.ToLower(strings.TrimPrefix(o.Result.String(), "PAYLOAD_RESULT_")); got != result || result == "dead_letter" && o.DeadLetterId != id {
			t.Errorf("%s: got %v", what, o)
		}
		if len(a.Orders) != orders {
			t.Errorf("%s: ordered %v", what, a.Orders)
		}
		shown := ""
		for _, d := range h.deadLetters() {
			shown += d.State
		}
		wantText(t, what, shown, state)
		if n := h.store.State().Index() - before; n != 0 && what != "gone" {
			t.Errorf("%s: it took %d commands", what, n)
		}
	}
	wantRepeated("held", "dead_letter", state.DeadLetterHeld, 0)
	order := &gwv1.RedeliverDeadLettersRequest{Ids: []string{id}}
	_, err := h.hub.Plugins.RedeliverDeadLetters(h.as(RoleOperator), order)
	must(t, err)
	wantRepeated("redelivering", "dead_letter", state.DeadLetterRedelivering, 1)
	// The order reached the edge with an answer that said nothing of the payload.
	resolve := func(gone bool) {
		t.Helper()
		_, err := e.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Answers: []*gwv1.DeadLetterAnswer{{Id: id, Gone: gone}}})
		must(t, err)
	}
	resolve(true)
	wantRepeated("gone", "dead_letter", state.DeadLetterHeld, 0)
	_, err = h.hub.Plugins.RedeliverDeadLetters(h.as(RoleOperator), order)
	must(t, err)
	resolve(false)
	wantRepeated("redelivered", "repeated", "", 0)
	if tallies := slices.Collect(h.store.State().PluginTallies()); len(tallies) != 1 || tallies[0].DeadLetters != 1 {
		t.Errorf("counted %v", tallies)
	}
	// Dropped for good, it does not come back.
	lost = payload(5, 2, "unwanted too")
	wantText(t, "another", e.bring(t, lost), "dead_letter")
	id = h.deadLetters()[0].Id
	_, err = h.hub.Plugins.DropDeadLetters(h.as(RoleOperator), &gwv1.DropDeadLettersRequest{Ids: []string{id}})
	must(t, err)
	wantRepeated("dropping", "dead_letter", state.DeadLetterDropping, 1)
	resolve(true)
	wantRepeated("dropped", "repeated", "", 0)
}

func TestManyEdgesCountExactly(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, add("total"))
	r.set(8, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		// A write of its own beside the payload's: those that read the key meanwhile are decided anew.
		if err := h.hub.PluginKV(8).Write(ctx, "beside", p.Payload, time.Time{}); err != nil {
			return false, err
		}
		return add("total")(ctx, p, kv)
	})
	const edges, batches, size = 6, 8, 5
	var wg sync.WaitGroup
	for n := range edges {
		e := h.enroll("eu", fmt.Sprint("e", n))
		wg.Go(func() {
			sequence := uint64(0)
			for range batches {
				var batch []*gwv1.PluginPayload
				for range size {
					sequence++
					for _, plugin := range []uint32{7, 8} {
						p := payload(plugin, sequence, "1")
						p.StoreId = []byte(fmt.Sprintf("store of edge %02d", n))
						batch = append(batch, p)
					}
				}
				for range 2 { // the first answer got lost
					if got := e.bring(t, batch...); strings.Contains(got, "dead") || strings.Contains(got, "retry") {
						t.Errorf("outcome %s", got)
					}
				}
			}
		})
	}
	wg.Wait()
	want := fmt.Sprint(edges * batches * size)
	wantText(t, "totals", h.pluginKey(7, "total")+" "+h.pluginKey(8, "total"), want+" "+want)
}

// A key that another changes while a payload is handled: what was decided by its old value is not committed.
func TestAPayloadDecidedByAnOldValueIsDeliveredAnew(t *testing.T) {
	h, r := withReceivers(t)
	calls := 0
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		calls++
		was, _, err := kv.Read(ctx, "n")
		if err != nil {
			return false, err
		}
		if calls == 1 {
			if err := h.hub.PluginKV(7).Write(ctx, "n", []byte("changed"), time.Time{}); err != nil {
				return false, err
			}
		}
		return true, kv.Write(ctx, "n", append(slices.Clone(was), '!'), time.Time{})
	})
	wantText(t, "outcome", h.enroll("eu", "e1").bring(t, payload(7, 1, "x")), "handled")
	wantText(t, "n", h.pluginKey(7, "n"), "changed!")
	if calls != 2 {
		t.Errorf("called %d times, want 2", calls)
	}
}

func TestLimitsOfWhatAPayloadWrites(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		write := func(key string, n int) error { return kv.Write(ctx, key, make([]byte, n), time.Time{}) }
		var wrong []error
		refused := func(what string, err error, want bool) {
			if (err != nil) != want {
				wrong = append(wrong, fmt.Errorf("%s: %w", what, cmpErr(err)))
			}
		}
		refused("64 KiB", write("a", state.MaxPluginValue), false)
		refused("a byte more", write("a", state.MaxPluginValue+1), true)
		refused("key", write(strings.Repeat("k", state.MaxPluginKey), 0), false)
		refused("long key", write(strings.Repeat("k", state.MaxPluginKey+1), 0), true)
		refused("no key", write("", 0), true)
		refused("no text", write("\xff", 0), true)
		written := 1 + state.MaxPluginValue + state.MaxPluginKey
		for i := 0; written+6+state.MaxPluginValue <= state.MaxPluginCommit; i++ {
			refused("more", write(fmt.Sprintf("b%05d", i), state.MaxPluginValue), false)
			written += 6 + state.MaxPluginValue
		}
		refused("up to 512 KiB", write("c", state.MaxPluginCommit-written-1), false)
		refused("past 512 KiB", write("d", 0), true)
		refused("instead of what was written", write("c", 0), false)
		return true, errors.Join(wrong...)
	})
	r.set(8, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		n := 0
		for ; kv.Write(ctx, fmt.Sprint(n), nil, time.Time{}) == nil; n++ {
		}
		reads := 0
		for ; ; reads++ {
			if _, _, err := kv.Read(ctx, strings.Repeat("r", 400)+fmt.Sprint(reads)); err != nil {
				break
			}
		}
		return true, fmt.Errorf("%d writes and %d reads", n, reads)
	})
	e := h.enroll("eu", "e1")
	wantText(t, "outcomes", e.bring(t, payload(7, 1, "x"), payload(8, 1, "x"), payload(8, 2, "x")), "handled handled handled")
	for tally := range h.store.State().PluginTallies() {
		switch {
		case tally.PluginId == 7 && tally.LastError != "":
			t.Error(tally.LastError)
		case tally.PluginId == 8:
			wantText(t, "told", tally.LastError, fmt.Sprintf("%d writes and %d reads", maxWrites, 421))
		}
	}
}

func cmpErr(err error) error {
	if err == nil {
		return errors.New("was taken")
	}
	return err
}

// What payloads write is large; every batch still fits into log entries, and comes out whole.
func TestLargeCommitsAreSplitBetweenPayloads(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		for i := range 6 {
			if err := kv.Write(ctx, fmt.Sprintf("%s/%d", p.Payload, i), make([]byte, 60<<10), time.Time{}); err != nil {
				return false, err
			}
		}
		return add("n")(ctx, Payload{Payload: []byte("1")}, kv)
	})
	var batch []*gwv1.PluginPayload
	for i := range 10 {
		batch = append(batch, payload(7, uint64(i+1), fmt.Sprint(i)))
	}
	wantText(t, "outcomes", h.enroll("eu", "e1").bring(t, batch...), strings.TrimSpace(strings.Repeat("handled ", 10)))
	wantText(t, "n", h.pluginKey(7, "n"), "10")
	if s := h.store.State().PluginKVSize(7); s.Keys != 61 {
		t.Errorf("kept %v", s)
	}
}

func TestKVOfADeliveredPayloadIsOfNoUse(t *testing.T) {
	h, r := withReceivers(t)
	var kept PluginKV
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		kept = kv
		return true, nil
	})
	h.enroll("eu", "e1").bring(t, payload(7, 1, "x"))
	if err := kept.Write(t.Context(), "k", nil, time.Time{}); !errors.Is(err, errDelivered) {
		t.Errorf("got %v", err)
	}
	if _, _, err := kept.Read(t.Context(), "k"); !errors.Is(err, errDelivered) {
		t.Errorf("got %v", err)
	}
	if _, err := kept.List(t.Context(), ""); !errors.Is(err, errDelivered) {
		t.Errorf("got %v", err)
	}
}

func TestBatchesThatNoEdgeSendsAreRefused(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, add("n"))
	e := h.enroll("eu", "e1")
	send := func(payloads ...*gwv1.PluginPayload) error {
		_, err := e.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Payloads: payloads})
		return err
	}
	h.refused(send(payload(7, 2, "x"), payload(7, 1, "x")), connect.CodeInvalidArgument, ReasonInvalid, "1 is not after 2")
	h.refused(send(payload(0, 1, "x")), connect.CodeInvalidArgument, ReasonInvalid, "plugin_id")
	var many []*gwv1.PluginPayload
	for i := range 101 {
		many = append(many, payload(7, uint64(i+1), "x"))
	}
	h.refused(send(many...), connect.CodeInvalidArgument, ReasonInvalid, "100")
	h.refused(send(payload(7, 1, strings.Repeat("x", 1<<20+1))), connect.CodeInvalidArgument, ReasonInvalid, "")
	var big []*gwv1.PluginPayload
	for i := range 5 {
		big = append(big, payload(7, uint64(i+1), strings.Repeat("x", 1<<20)))
	}
	h.refused(send(big...), connect.CodeInvalidArgument, ReasonTooLarge, "4194304")
	_, err := h.enroller().SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "")
	wantText(t, "nothing came of it", h.pluginKey(7, "n"), "-")
}

func TestDeadLettersAreRedeliveredOrDroppedByOrder(t *testing.T) {
	h, _ := withReceivers(t)
	eu, us := h.enroll("eu", "e1"), h.enroll("us", "u1")
	wantText(t, "eu", eu.bring(t, payload(7, 1, "a"), payload(7, 2, "b"), payload(7, 3, "c")), "dead_letter dead_letter dead_letter")
	other := payload(7, 1, "u")
	other.StoreId = []byte("another store!!!")
	wantText(t, "us", us.bring(t, other), "dead_letter")
	list, err := h.hub.Plugins.ListDeadLetters(h.as(RoleViewer, "eu"), &gwv1.ListDeadLettersRequest{PageSize: 2})
	must(t, err)
	if list.Total != 3 || len(list.DeadLetters) != 2 || list.NextPageToken == "" {
		t.Fatalf("listed %v", list)
	}
	rest, err := h.hub.Plugins.ListDeadLetters(h.as(RoleViewer, "eu"), &gwv1.ListDeadLettersRequest{PageSize: 2, PageToken: list.NextPageToken})
	must(t, err)
	if len(rest.DeadLetters) != 1 || rest.NextPageToken != "" || rest.DeadLetters[0].Id == list.DeadLetters[1].Id {
		t.Fatalf("then %v", rest)
	}
	ids := map[string]string{}
	for _, d := range append(list.DeadLetters, rest.DeadLetters...) {
		ids[d.CorrelationId] = d.Id
		if d.State != gwv1.DeadLetterState_DEAD_LETTER_STATE_HELD || d.Reason != "no_receiver" || d.Metadata["k"] != "v" || d.Size != 1 {
			t.Errorf("dead letter %v", d)
		}
	}
	redeliver := &gwv1.RedeliverDeadLettersRequest{Ids: []string{ids["c-a"], ids["c-b"]}}
	_, err = h.hub.Plugins.RedeliverDeadLetters(h.as(RoleViewer, "eu"), redeliver)
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "operator")
	_, err = h.hub.Plugins.RedeliverDeadLetters(h.as(RoleOperator, "us"), redeliver)
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "eu")
	_, err = h.hub.Plugins.RedeliverDeadLetters(h.as(RoleOperator, "eu"), redeliver)
	must(t, err)
	_, err = h.hub.Plugins.DropDeadLetters(h.as(RoleOperator, "eu"), &gwv1.DropDeadLettersRequest{Ids: []string{ids["c-c"]}})
	must(t, err)
	_, err = h.hub.Plugins.DropDeadLetters(h.as(RoleOperator, "eu"), &gwv1.DropDeadLettersRequest{Ids: []string{"nobody"}})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "nobody")
	a, err := eu.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{})
	must(t, err)
	if len(a.Orders) != 3 {
		t.Fatalf("orders %v", a.Orders)
	}
	b, err := us.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Answers: []*gwv1.DeadLetterAnswer{{Id: ids["c-a"]}}})
	must(t, err)
	if len(b.Orders) != 0 || len(h.deadLetters()) != 4 {
		t.Errorf("another edge was ordered %v, and resolved what is not its own", b.Orders)
	}
	a, err = eu.SendPluginControlBatch(t.Context(), &gwv1.SendPluginControlBatchRequest{Answers: []*gwv1.DeadLetterAnswer{
		{Id: ids["c-a"]}, {Id: ids["c-b"], Gone: true}, {Id: ids["c-c"]}}})
	must(t, err)
	if len(a.Orders) != 0 {
		t.Errorf("still ordered: %v", a.Orders)
	}
	gone, err := h.hub.Plugins.GetDeadLetter(h.as(RoleViewer), &gwv1.GetDeadLetterRequest{Id: ids["c-b"]})
	must(t, err)
	if gone.DeadLetter.State != gwv1.DeadLetterState_DEAD_LETTER_STATE_GONE {
		t.Errorf("got %v", gone)
	}
	_, err = h.hub.Plugins.GetDeadLetter(h.as(RoleViewer), &gwv1.GetDeadLetterRequest{Id: ids["c-a"]})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, ids["c-a"])
	_, err = h.hub.Plugins.GetDeadLetter(h.as(RoleViewer, "us"), &gwv1.GetDeadLetterRequest{Id: ids["c-b"]})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, ids["c-b"])
}

func TestKVOfHubPluginsIsShown(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, func(ctx context.Context, p Payload, kv PluginKV) (bool, error) {
		return true, kv.Write(ctx, "edge/"+string(p.Payload), p.Payload, h.clock.now().Add(time.Hour))
	})
	e := h.enroll("eu", "e1")
	e.bring(t, payload(7, 1, "a"), payload(7, 2, "b"), payload(7, 3, "c"))
	list, err := h.hub.Plugins.ListPluginKV(h.as(RoleViewer), &gwv1.ListPluginKVRequest{PluginId: 7, Prefix: "edge/", PageSize: 2})
	must(t, err)
	if len(list.Entries) != 2 || list.Entries[0].Key != "edge/a" || list.Entries[0].Size != 1 || list.Entries[0].Value != nil || list.Keys != 3 {
		t.Errorf("listed %v", list)
	}
	list, err = h.hub.Plugins.ListPluginKV(h.as(RoleViewer), &gwv1.ListPluginKVRequest{PluginId: 7, PageToken: list.NextPageToken})
	must(t, err)
	if len(list.Entries) != 1 || list.Entries[0].Key != "edge/c" || list.NextPageToken != "" {
		t.Errorf("then %v", list)
	}
	got, err := h.hub.Plugins.GetPluginKV(h.as(RoleViewer), &gwv1.GetPluginKVRequest{PluginId: 7, Key: "edge/b"})
	must(t, err)
	wantText(t, "value", string(got.Entry.Value), "b")
	_, err = h.hub.Plugins.GetPluginKV(h.as(RoleViewer, "eu"), &gwv1.GetPluginKVRequest{PluginId: 7, Key: "edge/b"})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "every namespace")
	h.clock.advance(time.Hour)
	_, err = h.hub.Plugins.GetPluginKV(h.as(RoleViewer), &gwv1.GetPluginKVRequest{PluginId: 7, Key: "edge/b"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "edge/b")
	if keys, err := h.hub.PluginKV(7).List(t.Context(), ""); len(keys) != 0 || err != nil {
		t.Errorf("its plugin still lists %v, %v", keys, err)
	}
}

// What a hub plugin says and keeps may be from every namespace.
func TestWhoSeesOneNamespaceIsNotToldOfOthersByAHubPlugin(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, func(_ context.Context, p Payload, _ PluginKV) (bool, error) {
		if string(p.Payload) == "unwanted" {
			return false, nil
		}
		return true, errors.New("customer 4711 is unknown")
	})
	wantText(t, "outcomes", h.enroll("eu", "e1").bring(t, payload(7, 1, "x"), payload(8, 1, "unwanted")), "handled dead_letter")
	of := func(namespaces ...string) string {
		a, err := h.hub.Plugins.ListPlugins(h.as(RoleViewer, namespaces...), &gwv1.ListPluginsRequest{})
		must(t, err)
		var letters uint32
		told := false
		for _, p := range a.Plugins {
			letters += p.DeadLetters
			told = told || p.LastError != ""
		}
		return fmt.Sprint(letters, told)
	}
	for _, c := range []struct{ who, want string }{{"", "1 true"}, {"eu", "1 false"}, {"us", "0 false"}} {
		var namespaces []string
		if c.who != "" {
			namespaces = []string{c.who}
		}
		wantText(t, "told "+c.who, of(namespaces...), c.want)
	}
}

func TestPluginsAreListedWhereverTheyRun(t *testing.T) {
	h, r := withReceivers(t)
	r.set(7, add("n"))
	e := h.enroll("eu", "e1")
	e.bring(t, payload(7, 1, "1"))
	e.beat(t, nil, func(b *gwv1.HeartbeatRequest) {
		b.Plugins = []*gwv1.PluginProcess{{Id: 7, Name: "cache", State: gwv1.PluginState_PLUGIN_STATE_BACKOFF, Restarts: 3, Reason: "exit status 1"}}
		b.Queues = []*gwv1.PluginQueue{{PluginId: 7, Pending: 5}, {PluginId: 9, Expired: 2}}
	})
	a, err := h.hub.Plugins.ListPlugins(h.as(RoleViewer, "eu"), &gwv1.ListPluginsRequest{})
	must(t, err)
	var got []string
	for _, p := range a.Plugins {
		for _, at := range p.Places {
			got = append(got, fmt.Sprintf("%d %s %s %s %v %s %d %d %d", p.Id, p.Type, p.Name, at.EdgeId, at.HubId != "", at.Process.GetState(), at.Process.GetRestarts(), at.Queue.GetPending(), at.Queue.GetExpired()))
		}
	}
	wantText(t, "listed", strings.Join(got, ", "),
		"7 edge cache e1 false PLUGIN_STATE_BACKOFF 3 5 0, 7 hub plugin-7  true PLUGIN_STATE_RUNNING 0 0 0, 9 edge  e1 false PLUGIN_STATE_UNSPECIFIED 0 0 2")
	a, err = h.hub.Plugins.ListPlugins(h.as(RoleViewer, "us"), &gwv1.ListPluginsRequest{})
	must(t, err)
	for _, p := range a.Plugins {
		if p.Type == "edge" {
			t.Errorf("who may read us is shown %v", p)
		}
	}
}
