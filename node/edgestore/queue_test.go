package edgestore

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

func mustSpool(t testing.TB, dir string, change ...func(*SpoolConfig)) *Spool {
	t.Helper()
	c := SpoolConfig{Dir: dir}
	for _, f := range change {
		f(&c)
	}
	s, err := OpenSpool(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func unsynced(c *SpoolConfig) { c.Unsynced = true }

func mustSend(t testing.TB, s *Spool, plugin uint32, payload string) int64 {
	t.Helper()
	n, err := s.Send(t.Context(), plugin, []byte(payload), "c-"+payload, map[string]string{"k": "v"})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func mustNext(t testing.TB, s *Spool, skip ...uint32) []pending {
	t.Helper()
	batch, err := s.next(t.Context(), func(p uint32) bool { return slices.Contains(skip, p) })
	if err != nil {
		t.Fatal(err)
	}
	return batch
}

// all makes the same outcome for a whole batch.
func all(batch []pending, result gwv1.PayloadResult) (outcomes []*gwv1.PayloadOutcome) {
	for _, p := range batch {
		outcomes = append(outcomes, &gwv1.PayloadOutcome{Result: result, DeadLetterId: fmt.Sprintf("%d-%d-%x", p.PluginId, p.Sequence, p.StoreId[:2])})
	}
	return outcomes
}

const (
	handled = gwv1.PayloadResult_PAYLOAD_RESULT_HANDLED
	retry   = gwv1.PayloadResult_PAYLOAD_RESULT_RETRY
	dead    = gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER
)

func mustSettle(t testing.TB, s *Spool, batch []pending, result gwv1.PayloadResult) {
	t.Helper()
	if err := s.settle(batch, all(batch, result)); err != nil {
		t.Fatal(err)
	}
}

func texts(batch []pending) string {
	var all []string
	for _, p := range batch {
		all = append(all, fmt.Sprintf("%d:%s", p.PluginId, p.Payload))
	}
	return strings.Join(all, " ")
}

func queueOf(t testing.TB, s *Spool, plugin uint32) *gwv1.PluginQueue {
	t.Helper()
	for _, q := range s.Queues() {
		if q.PluginId == plugin {
			return q
		}
	}
	return &gwv1.PluginQueue{PluginId: plugin}
}

func TestLimitsOfAPayload(t *testing.T) {
	s := mustSpool(t, t.TempDir())
	entries := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint(i)] = "v"
		}
		return m
	}
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, x := range []struct {
		name          string
		payload       int
		correlationID string
		metadata      map[string]string
		want          error
	}{
		{"empty", 0, "", nil, nil},
		{"1 MiB", 1 << 20, "", nil, nil},
		{"1 MiB and a byte", 1<<20 + 1, "", nil, ErrPayloadTooLarge},
		{"50 entries", 1, "", entries(50), nil},
		{"51 entries", 1, "", entries(51), ErrInvalidMetadata},
		{"key of 256", 1, "", map[string]string{long(256): ""}, nil},
		{"key of 257", 1, "", map[string]string{long(257): ""}, ErrInvalidMetadata},
		{"value of 4096", 1, "", map[string]string{"k": long(4096)}, nil},
		{"value of 4097", 1, "", map[string]string{"k": long(4097)}, ErrInvalidMetadata},
		{"correlation ID of 256", 1, long(256), nil, nil},
		{"correlation ID of 257", 1, long(257), nil, ErrInvalidMetadata},
		{"key that is not text", 1, "", map[string]string{"\xff": ""}, ErrInvalidMetadata},
		{"value that is not text", 1, "", map[string]string{"k": "\xff"}, ErrInvalidMetadata},
		{"correlation ID that is not text", 1, "\xff", nil, ErrInvalidMetadata},
		{"everything at its limit", 1 << 20, long(256), func() map[string]string {
			m := map[string]string{}
			for i := range 50 {
				m[fmt.Sprintf("%02d", i)+long(254)] = long(4096)
			}
			return m
		}(), nil},
	} {
		before, _, _ := s.Totals()
		n, err := s.Send(t.Context(), 7, make([]byte, x.payload), x.correlationID, x.metadata)
		if !errors.Is(err, x.want) || (err == nil) != (x.want == nil) {
			t.Errorf("%s: got %v, want %v", x.name, err, x.want)
		}
		after, _, _ := s.Totals()
		if want := before + map[bool]int64{true: 1}[x.want == nil]; after != want || err == nil && n != want {
			t.Errorf("%s: %d pending (told %d), want %d", x.name, after, n, want)
		}
	}
	for {
		batch := mustNext(t, s)
		if len(batch) == 0 {
			break
		}
		size := 0
		for _, p := range batch {
			size += len(p.record) + batchOverhead
		}
		if size > BatchBytes {
			t.Errorf("a batch of %d bytes", size)
		}
		mustSettle(t, s, batch, handled)
	}
}

func TestPayloadsComeInOrderAndOnceSettledNoMore(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	for i := range 3 {
		mustSend(t, s, 7, fmt.Sprint("a", i))
		mustSend(t, s, 9, fmt.Sprint("b", i))
	}
	batch := mustNext(t, s)
	if got, want := texts(batch), "7:a0 7:a1 7:a2 9:b0 9:b1 9:b2"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	if got := texts(mustNext(t, s, 7)); got != "9:b0 9:b1 9:b2" {
		t.Errorf("without plugin 7: %s", got)
	}
	outcomes := all(batch, handled)
	outcomes[1].Result, outcomes[2].Result = retry, retry
	if err := s.settle(batch, outcomes); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustSpool(t, dir)
	mustSend(t, s, 7, "a3")
	again := mustNext(t, s)
	if got, want := texts(again), "7:a1 7:a2 7:a3"; got != want {
		t.Errorf("after a restart: %s, want %s", got, want)
	}
	if string(again[0].StoreId) != string(batch[1].StoreId) || again[0].Sequence != batch[1].Sequence {
		t.Error("what was pending has another name than before the restart")
	}
	if string(again[2].StoreId) == string(batch[1].StoreId) {
		t.Error("another opening writes under the same store ID")
	}
	if q := queueOf(t, s, 7); q.Accepted != 4 || q.Settled != 1 || q.Pending != 3 || q.Oldest == nil {
		t.Errorf("queue %v", q)
	}
}

func TestPluginsShareABatch(t *testing.T) {
	s := mustSpool(t, t.TempDir(), unsynced)
	for i := range 300 {
		mustSend(t, s, 7, fmt.Sprint(i))
	}
	mustSend(t, s, 8, "x")
	got := map[uint32]int{}
	for _, p := range mustNext(t, s) {
		got[p.PluginId]++
	}
	if got[8] != 1 || got[7] != 50 {
		t.Errorf("got %v, want 50 of 7 and 1 of 8", got)
	}
	select {
	case <-s.Full():
	default:
		t.Error("100 pending payloads wake nobody")
	}
}

func TestSendersShareASync(t *testing.T) {
	s := mustSpool(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			for j := range 20 {
				if _, err := s.Send(t.Context(), uint32(1+i%3), []byte(fmt.Sprint(i, j)), "", nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for {
		batch := mustNext(t, s)
		if len(batch) == 0 {
			break
		}
		for _, p := range batch {
			seen[string(p.Payload)] = true
		}
		mustSettle(t, s, batch, handled)
	}
	if len(seen) != 64*20 {
		t.Errorf("%d of %d payloads", len(seen), 64*20)
	}
	if n, bytes, _ := s.Totals(); n != 0 || bytes != 0 {
		t.Errorf("%d payloads of %d bytes are left over", n, bytes)
	}
}

// fill sets what a plugin is counted as using, without a hundred thousand rows.
func fill(s *Spool, plugin uint32, count, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grow(plugin, count, bytes)
}

func TestPluginsShareTheRoom(t *testing.T) {
	send := func(t *testing.T, s *Spool, plugin uint32) error {
		_, err := s.Send(t.Context(), plugin, nil, "", nil)
		return err
	}
	t.Run("one alone has all of it", func(t *testing.T) {
		s := mustSpool(t, t.TempDir())
		s.Share([]uint32{7})
		fill(s, 7, MaxPending-1, 0)
		if err := send(t, s, 7); err != nil {
			t.Error(err)
		}
		if err := send(t, s, 7); !errors.Is(err, ErrQueueFull) {
			t.Errorf("got %v, want %v", err, ErrQueueFull)
		}
		if q := queueOf(t, s, 7); q.Refused != 1 {
			t.Errorf("%d refused, want 1", q.Refused)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		s := mustSpool(t, t.TempDir())
		fill(s, 7, 10, MaxPendingBytes-rowOverhead-100)
		if err := send(t, s, 7); err != nil {
			t.Error(err)
		}
		if _, err := s.Send(t.Context(), 7, make([]byte, 100), "", nil); !errors.Is(err, ErrQueueFull) {
			t.Errorf("got %v, want %v", err, ErrQueueFull)
		}
	})
	t.Run("another keeps its share", func(t *testing.T) {
		s := mustSpool(t, t.TempDir())
		s.Share([]uint32{7, 8})
		fill(s, 7, MaxPending-MaxPending/4-1, 0)
		if err := send(t, s, 7); err != nil {
			t.Error(err)
		}
		if err := send(t, s, 7); !errors.Is(err, ErrQueueFull) {
			t.Errorf("got %v, want %v", err, ErrQueueFull)
		}
		fill(s, 8, MaxPending/4-1, 0)
		if err := send(t, s, 8); err != nil {
			t.Errorf("within its share: %v", err)
		}
	})
}

// Whatever plugins do, one within its share is let in, and together they never exceed the limit.
func TestSharesAreKept(t *testing.T) {
	for n := int64(1); n <= 5; n++ {
		a := &account{plugins: map[uint32]*tally{}, known: map[uint32]bool{}}
		for p := range n {
			a.known[uint32(p+1)] = true
		}
		step := MaxPending / 40
		for round := range int64(400) {
			p := uint32(round*7%n + 1)
			if round%3 == 0 {
				p = 1 // the greedy one
			}
			size := int64(MaxPendingBytes / 45)
			share := MaxPending / (2 * n)
			t1 := a.of(p)
			fits := t1.pending+1 <= share && t1.bytes+size <= MaxPendingBytes/(2*n)
			if ok := a.admits(p, size); ok {
				a.grow(p, int64(step), size)
				if a.pending > MaxPending {
					a.grow(p, int64(1-step), 0) // only one was asked for
				}
			} else if fits {
				t.Fatalf("%d plugins: %d was refused with %d payloads and %d bytes, within its share", n, p, t1.pending, t1.bytes)
			}
			if a.pending > MaxPending || a.bytes > MaxPendingBytes {
				t.Fatalf("%d plugins: %d payloads, %d bytes", n, a.pending, a.bytes)
			}
		}
	}
}

type movedClock struct {
	mu sync.Mutex
	at time.Time
}

func (c *movedClock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *movedClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func TestOldPayloadsExpireAndAreCounted(t *testing.T) {
	clock := &movedClock{at: time.Unix(1_700_000_000, 0)}
	dir := t.TempDir()
	s := mustSpool(t, dir, unsynced, func(c *SpoolConfig) { c.Now = clock.now })
	for i := range 600 {
		mustSend(t, s, 7, fmt.Sprint("old", i))
	}
	clock.advance(PayloadLife)
	mustSend(t, s, 7, "new")
	if n, err := s.Expire(); n != 0 || err != nil {
		t.Errorf("dropped %d at exactly 24 h, %v", n, err)
	}
	clock.advance(1)
	if n, err := s.Expire(); n != 600 || err != nil {
		t.Errorf("dropped %d, %v; want 600", n, err)
	}
	if got := texts(mustNext(t, s)); got != "7:new" {
		t.Errorf("left: %s", got)
	}
	s.Close()
	s = mustSpool(t, dir, unsynced)
	if q := queueOf(t, s, 7); q.Expired != 600 || q.Pending != 1 || q.Accepted != 601 {
		t.Errorf("after a restart: %v", q)
	}
}

func TestDeadLettersStayUntilTheHubSaysSo(t *testing.T) {
	clock := &movedClock{at: time.Unix(1_700_000_000, 0)}
	dir := t.TempDir()
	s := mustSpool(t, dir, func(c *SpoolConfig) { c.Now = clock.now })
	mustSend(t, s, 7, "a")
	mustSend(t, s, 7, "b")
	mustSend(t, s, 7, "c")
	batch := mustNext(t, s)
	mustSettle(t, s, batch, dead)
	if q := queueOf(t, s, 7); q.Pending != 0 || q.DeadLetters != 3 {
		t.Errorf("queue %v", q)
	}
	clock.advance(3 * 24 * time.Hour)
	ids := all(batch, dead)
	order := []*gwv1.DeadLetterOrder{
		{Id: ids[0].DeadLetterId, Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER},
		{Id: ids[1].DeadLetterId, Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_DROP},
		{Id: "unheard-of", Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER},
	}
	for range 2 { // the hub repeats itself until it has an answer
		if err := s.Order(order); err != nil {
			t.Fatal(err)
		}
	}
	s.Close()
	s = mustSpool(t, dir, func(c *SpoolConfig) { c.Now = clock.now })
	if _, err := s.Expire(); err != nil {
		t.Fatal(err)
	}
	again := mustNext(t, s)
	if texts(again) != "7:a" || again[0].CorrelationId != "c-a" || again[0].SentAt != batch[0].SentAt {
		t.Errorf("delivered again: %v", again)
	}
	if string(again[0].StoreId) == string(batch[0].StoreId) && again[0].Sequence <= batch[2].Sequence {
		t.Error("it comes again under a number that is settled")
	}
	answers, err := s.Answers()
	if err != nil || len(answers) != 3 {
		t.Fatalf("answers %v, %v", answers, err)
	}
	for _, a := range answers {
		if a.Gone != (a.Id == "unheard-of") {
			t.Errorf("answer %v", a)
		}
	}
	if err := s.Answered(answers); err != nil {
		t.Fatal(err)
	}
	clock.advance(5 * 24 * time.Hour)
	if _, err := s.Expire(); err != nil {
		t.Fatal(err)
	}
	answers, err = s.Answers()
	if err != nil || len(answers) != 1 || !answers[0].Gone || answers[0].Id != ids[2].DeadLetterId {
		t.Errorf("after 7 days the hub is told %v, %v", answers, err)
	}
	if q := queueOf(t, s, 7); q.DeadLetters != 0 || q.DeadLettersDropped != 1 {
		t.Errorf("queue %v", q)
	}
}

// An answer that was lost is told again: what it says was done in part already, and the order came first.
func TestADeadLetterThatIsToldAgainIsKeptOnce(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	mustSend(t, s, 7, "a")
	mustSend(t, s, 7, "b")
	batch := mustNext(t, s)
	outcomes := all(batch, dead)
	for _, id := range []string{outcomes[0].DeadLetterId, "unheard-of"} {
		if err := s.Order([]*gwv1.DeadLetterOrder{{Id: id, Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER}}); err != nil {
			t.Fatal(err)
		}
	}
	mustSettle(t, s, batch[:1], dead)
	answers, err := s.Answers()
	if err != nil || len(answers) != 1 || answers[0].Id != "unheard-of" {
		t.Errorf("the hub is told %v, %v", answers, err)
	}
	outcomes[1].DeadLetterId = outcomes[0].DeadLetterId
	if err := s.settle(batch[1:], outcomes[1:]); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		if q := queueOf(t, s, 7); q.Pending != 0 || q.DeadLetters != 1 || q.DeadLetterBytes != uint64(batch[0].size) {
			t.Errorf("%s: queue %v", what, q)
		}
		if s.stored != 1 {
			t.Errorf("%s: %d are counted as on the disk, want 1", what, s.stored)
		}
	}
	check("told again")
	s.Close()
	s = mustSpool(t, dir)
	check("after a restart")
}

func TestDeadLettersMakeRoomForNewerOnes(t *testing.T) {
	s := mustSpool(t, t.TempDir(), unsynced)
	for i := range 70 {
		if _, err := s.Send(t.Context(), 7, make([]byte, 1<<20), fmt.Sprint(i), nil); err != nil {
			t.Fatal(err)
		}
	}
	for batch := mustNext(t, s); len(batch) > 0; batch = mustNext(t, s) {
		mustSettle(t, s, batch, dead)
	}
	q := queueOf(t, s, 7)
	if q.DeadLetterBytes > MaxDeadLetterBytes || q.DeadLetters != 63 || q.DeadLettersDropped != 7 {
		t.Errorf("queue %v", q)
	}
}

func TestADamagedSpoolIsSetAsideAndItsLossIsTold(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	mustSend(t, s, 7, "a")
	s.Close()
	if err := os.WriteFile(filepath.Join(dir, "spool.db"), []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	s = mustSpool(t, dir)
	loss := s.Loss()
	if !loss.Unknown || loss.SetAside == "" {
		t.Errorf("loss %+v", loss)
	}
	if _, err := os.Stat(loss.SetAside); err != nil {
		t.Error(err)
	}
	if n := mustSend(t, s, 7, "b"); n != 1 {
		t.Errorf("%d pending, want 1", n)
	}
	s.Close()
	if again := mustSpool(t, dir).Loss(); again.SetAside != loss.SetAside || !again.Unknown {
		t.Errorf("after a restart the loss is %+v", again)
	}
}

func TestASpoolDamagedWhileOpenIsReplacedAndCounted(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	for i := range 5 {
		mustSend(t, s, 7, fmt.Sprint(i))
	}
	first := mustNext(t, s)
	if err := s.write(func(tx *sql.Tx) error { return ErrCorrupt }); !errors.Is(err, ErrCorrupt) {
		t.Errorf("got %v", err)
	}
	loss := s.Loss()
	if loss.Payloads != 5 || loss.Unknown || loss.SetAside == "" {
		t.Errorf("loss %+v", loss)
	}
	if n := mustSend(t, s, 7, "new"); n != 1 {
		t.Errorf("%d pending, want 1", n)
	}
	batch := mustNext(t, s)
	if texts(batch) != "7:new" || string(batch[0].StoreId) == string(first[0].StoreId) {
		t.Errorf("got %v", batch)
	}
	// What was on its way then has no part in the new file.
	mustSettle(t, s, batch, handled)
	if n, bytes, _ := s.Totals(); n != 0 || bytes != 0 {
		t.Errorf("%d payloads of %d bytes", n, bytes)
	}
}

func TestACopyThatRunsBesideTakesAStoreOfItsOwn(t *testing.T) {
	s := mustSpool(t, t.TempDir())
	mustSend(t, s, 7, "a")
	mustSend(t, s, 7, "b")
	marks, err := s.Marks()
	if err != nil || len(marks) != 1 || marks[0].Sequence != 2 {
		t.Fatalf("marks %v, %v", marks, err)
	}
	if renewed, err := s.Compare(marks); renewed || err != nil {
		t.Fatalf("renewed %v, %v", renewed, err)
	}
	marks[0].Sequence = 3
	if renewed, err := s.Compare(marks); !renewed || err != nil {
		t.Fatalf("renewed %v, %v", renewed, err)
	}
	mustSend(t, s, 7, "c")
	batch := mustNext(t, s)
	if texts(batch) != "7:a 7:b 7:c" {
		t.Errorf("got %s", texts(batch))
	}
	for _, p := range batch {
		if string(p.StoreId) == string(marks[0].StoreId) {
			t.Errorf("payload %d is still under the old store", p.Sequence)
		}
	}
}

func TestKVOfAnEdge(t *testing.T) {
	clock := &movedClock{at: time.Unix(1_700_000_000, 0)}
	dir := t.TempDir()
	s := mustSpool(t, dir, func(c *SpoolConfig) { c.Now = clock.now })
	ctx := context.Background()
	kv, other := s.KV(7), s.KV(8)
	write := func(kv *KV, key, value string, expires time.Time) {
		t.Helper()
		if err := kv.Write(ctx, key, []byte(value), expires); err != nil {
			t.Fatal(err)
		}
	}
	write(kv, "a/1", "one", time.Time{})
	write(kv, "a/2", "two", clock.now().Add(time.Minute))
	write(kv, "b", "", time.Time{})
	write(other, "a/1", "other", time.Time{})
	read := func(kv *KV, key string) string {
		t.Helper()
		v, ok, err := kv.Read(ctx, key)
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return "-"
		}
		return string(v)
	}
	if got := read(kv, "a/1") + read(kv, "a/2") + read(kv, "b") + read(other, "a/1") + read(other, "b"); got != "onetwoother-" {
		t.Errorf("got %s", got)
	}
	if keys, err := kv.List(ctx, "a/"); err != nil || fmt.Sprint(keys) != "[a/1 a/2]" {
		t.Errorf("got %v, %v", keys, err)
	}
	clock.advance(time.Minute)
	if keys, err := kv.List(ctx, ""); err != nil || fmt.Sprint(keys) != "[a/1 b]" || read(kv, "a/2") != "-" {
		t.Errorf("got %v, %v", keys, err)
	}
	if was, err := kv.Delete(ctx, "a/1"); !was || err != nil {
		t.Errorf("deleted %v, %v", was, err)
	}
	if was, err := kv.Delete(ctx, "a/1"); was || err != nil {
		t.Errorf("deleted %v, %v", was, err)
	}
	if err := kv.Write(ctx, "k", make([]byte, MaxKVValue+1), time.Time{}); err == nil {
		t.Error("a value that is too large was taken")
	}
	if err := kv.Write(ctx, strings.Repeat("k", MaxKVKey+1), nil, time.Time{}); err == nil {
		t.Error("a key that is too long was taken")
	}
	if _, err := s.Expire(); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	keys, bytes := s.plugins[7].kvKeys, s.plugins[7].kvBytes
	s.mu.Unlock()
	s.Close()
	s = mustSpool(t, dir)
	s.mu.Lock()
	defer s.mu.Unlock()
	if keys != 1 || s.plugins[7].kvKeys != keys || s.plugins[7].kvBytes != bytes {
		t.Errorf("counted %d keys of %d bytes, and after a restart %d of %d", keys, bytes, s.plugins[7].kvKeys, s.plugins[7].kvBytes)
	}
}

func TestKVOfAnEdgeIsBounded(t *testing.T) {
	s := mustSpool(t, t.TempDir(), unsynced)
	kv := s.KV(7)
	value := make([]byte, MaxKVValue)
	var err error
	n := 0
	for ; err == nil; n++ {
		err = kv.Write(t.Context(), fmt.Sprintf("%06d", n), value, time.Time{})
	}
	if want := MaxKVBytes/(MaxKVValue+6) + 1; n != want {
		t.Errorf("refused after %d keys, want %d: %v", n, want, err)
	}
	if err := kv.Write(t.Context(), "000000", value[:10], time.Time{}); err != nil {
		t.Error(err)
	}
	if err := kv.Write(t.Context(), "another", value[:10], time.Time{}); err != nil {
		t.Error(err)
	}
}

func TestAClosedSpoolSaysSo(t *testing.T) {
	s := mustSpool(t, t.TempDir())
	mustSend(t, s, 7, "a")
	s.Close()
	if _, err := s.Send(t.Context(), 7, nil, "", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := s.next(t.Context(), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestAPayloadThatCantBeReadIsCountedAsLost(t *testing.T) {
	s := mustSpool(t, t.TempDir())
	mustSend(t, s, 7, "a")
	mustSend(t, s, 7, "b")
	if _, err := s.writer.Exec("UPDATE payloads SET record = x'ff' WHERE sequence = 1"); err != nil {
		t.Fatal(err)
	}
	if got := texts(mustNext(t, s)); got != "7:b" {
		t.Errorf("got %s", got)
	}
	if n, _, _ := s.Totals(); n != 1 || s.Loss().Payloads != 1 {
		t.Errorf("%d pending, loss %+v", n, s.Loss())
	}
}

// FuzzPayloadRecords puts arbitrary bytes where payloads were: nothing may panic, and what can't be read is counted as lost
// and stands in nobody's way.
func FuzzPayloadRecords(f *testing.F) {
	f.Add([]byte{0xff}, int64(1))
	f.Add([]byte{}, int64(-1))
	s := mustSpool(f, f.TempDir(), unsynced)
	f.Fuzz(func(t *testing.T, record []byte, sequence int64) {
		if _, err := s.Send(t.Context(), 7, []byte("one"), "", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Send(t.Context(), 7, []byte("two"), "", nil); err != nil {
			t.Fatal(err)
		}
		err := s.write(func(tx *sql.Tx) error {
			_, err := tx.Exec("UPDATE payloads SET record = ?, sequence = ? WHERE id = (SELECT min(id) FROM payloads)", append([]byte{}, record...), sequence)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		batch, err := s.next(t.Context(), nil)
		if err != nil || len(batch) == 0 || string(batch[len(batch)-1].Payload) != "two" {
			t.Fatalf("got %v, %v", batch, err)
		}
		for _, p := range batch {
			if p.Sequence < 1 || p.PluginId != 7 || len(p.StoreId) != 16 {
				t.Fatalf("a payload that names nothing: %v", p)
			}
		}
		mustSettle(t, s, batch, handled)
		if n, bytes, _ := s.Totals(); n != 0 || bytes != 0 {
			t.Fatalf("%d payloads of %d bytes are left", n, bytes)
		}
	})
}

// What was accepted is counted by its rows until something else is written, and once only.
func TestAcceptedPayloadsAreCountedOverRestarts(t *testing.T) {
	dir := t.TempDir()
	want := func(s *Spool, when string, accepted, settled uint64) {
		t.Helper()
		if q := queueOf(t, s, 7); q.Accepted != accepted || q.Settled != settled {
			t.Errorf("%s: %d accepted, %d settled, want %d and %d", when, q.Accepted, q.Settled, accepted, settled)
		}
	}
	s := mustSpool(t, dir)
	for range 3 {
		mustSend(t, s, 7, "x")
	}
	want(s, "sent", 3, 0)
	for _, when := range []string{"opened again", "and again"} {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = mustSpool(t, dir)
		want(s, when, 3, 0)
	}
	mustSettle(t, s, mustNext(t, s), handled)
	mustSend(t, s, 7, "x")
	want(s, "settled, and sent once more", 4, 3)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustSpool(t, dir)
	want(s, "opened after that", 4, 3)
	mustSettle(t, s, mustNext(t, s), handled)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = mustSpool(t, dir) // with no rows: later ones must not be taken for counted
	mustSend(t, s, 7, "x")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want(mustSpool(t, dir), "opened at last", 5, 4)
}

// A redelivered dead letter is in the queue again, and not accepted anew.
func TestARedeliveredPayloadIsNotCountedAgain(t *testing.T) {
	dir := t.TempDir()
	s := mustSpool(t, dir)
	mustSend(t, s, 7, "x")
	letter := &gwv1.PayloadOutcome{Result: gwv1.PayloadResult_PAYLOAD_RESULT_DEAD_LETTER, DeadLetterId: "1f0c9a3be27d5c48"}
	if err := s.settle(mustNext(t, s), []*gwv1.PayloadOutcome{letter}); err != nil {
		t.Fatal(err)
	}
	if err := s.Order([]*gwv1.DeadLetterOrder{{Id: letter.DeadLetterId, Action: gwv1.DeadLetterAction_DEAD_LETTER_ACTION_REDELIVER}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if q := queueOf(t, mustSpool(t, dir), 7); q.Accepted != 1 || q.Pending != 1 {
		t.Errorf("%d accepted, %d pending, want 1 and 1", q.Accepted, q.Pending)
	}
}
