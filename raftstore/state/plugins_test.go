package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

var storeA, storeB = hashOf("store a")[:storeIDLength], hashOf("store b")[:storeIDLength]

func settle(store []byte, after, sequence uint64, writes ...*gwv1.PluginKVWrite) *gwv1.Command {
	return &gwv1.Command{Actor: "hub/h1", Body: &gwv1.Command_SettlePayloads{SettlePayloads: &gwv1.SettlePayloads{
		Marks:  []*gwv1.SettledMark{{StoreId: store, PluginId: 7, EdgeId: "e1", Namespace: "default", After: after, Sequence: sequence, Handled: sequence - after}},
		Writes: writes,
	}}}
}

func kvWrite(key, value string) *gwv1.PluginKVWrite {
	return &gwv1.PluginKVWrite{PluginId: 7, Key: key, Value: []byte(value)}
}

func reading(c *gwv1.Command, key string, version uint64) *gwv1.Command {
	m := c.GetSettlePayloads()
	m.Reads = append(m.Reads, &gwv1.PluginKVRead{PluginId: 7, Key: key, Version: version})
	return c
}

func (l *log) kv(key string) string {
	r, ok := l.PluginKV(7, key, l.Cluster().Now)
	if !ok {
		return "-"
	}
	return string(r.Value)
}

func TestAPayloadTakesEffectOnce(t *testing.T) {
	l := newLog(t)
	l.ok(settle(storeA, 0, 3, kvWrite("n", "3")))
	l.refuses(settle(storeA, 0, 3, kvWrite("n", "6")), changedCode, "changed")
	l.refuses(settle(storeA, 2, 4, kvWrite("n", "6")), changedCode, "changed")
	l.refuses(settle(storeA, 3, 3, kvWrite("n", "6")), invalidCode, "invalid")
	if l.kv("n") != "3" || l.PluginMark(storeA, 7) != 3 || l.PluginMark(storeB, 7) != 0 {
		t.Errorf("n is %s, marks %d and %d", l.kv("n"), l.PluginMark(storeA, 7), l.PluginMark(storeB, 7))
	}
	for tally := range l.PluginTallies() {
		if tally.Handled != 3 {
			t.Errorf("tally %v, want 3 handled", tally)
		}
	}
}

func TestPayloadsDecidedByAnOldValueAreRefused(t *testing.T) {
	l := newLog(t)
	l.ok(reading(settle(storeA, 0, 1, kvWrite("n", "1")), "n", 0))
	r, _ := l.PluginKV(7, "n", 0)
	l.ok(reading(settle(storeB, 0, 1, kvWrite("n", "2")), "n", r.Version))
	l.refuses(reading(settle(storeA, 1, 2, kvWrite("n", "2")), "n", r.Version), changedCode, "changed")
	if l.kv("n") != "2" || l.PluginMark(storeA, 7) != 1 {
		t.Errorf("n is %s, mark %d", l.kv("n"), l.PluginMark(storeA, 7))
	}
}

func TestKeysExpireByTheTimeOfCommands(t *testing.T) {
	l := newLog(t)
	w := kvWrite("short", "x")
	w.ExpiresAt = l.at + int64(time.Minute)
	l.ok(settle(storeA, 0, 1, w, kvWrite("long", "y")))
	r, _ := l.PluginKV(7, "short", l.at)
	l.at += int64(time.Minute)
	if _, ok := l.PluginKV(7, "short", l.at); ok {
		t.Error("an expired key is still read")
	}
	l.refuses(reading(settle(storeA, 1, 2), "short", r.GetVersion()), changedCode, "changed")
	l.ok(reading(settle(storeA, 1, 2), "short", 0))
	if s := l.PluginKVSize(7); s.Keys != 1 || s.Bytes != 5 {
		t.Errorf("kept %v, want 1 key of 5 bytes", s)
	}
}

func TestPluginKVLimits(t *testing.T) {
	l := newLog(t)
	l.ok(settle(storeA, 0, 1, kvWrite(strings.Repeat("k", MaxPluginKey), strings.Repeat("v", MaxPluginValue))))
	l.refuses(settle(storeA, 1, 2, kvWrite(strings.Repeat("k", MaxPluginKey+1), "v")), invalidCode, "invalid")
	l.refuses(settle(storeA, 1, 2, kvWrite("k", strings.Repeat("v", MaxPluginValue+1))), invalidCode, "invalid")
	l.refuses(settle(storeA, 1, 2, kvWrite("", "v")), invalidCode, "invalid")
	n := uint64(1)
	for i := 0; l.PluginKVSize(7).Bytes < MaxPluginKV-MaxPluginValue-16; i++ {
		l.ok(settle(storeA, n, n+1, kvWrite(fmt.Sprintf("big-%06d", i), strings.Repeat("v", MaxPluginValue))))
		n++
	}
	l.refuses(settle(storeA, n, n+1, kvWrite("one more", strings.Repeat("v", MaxPluginValue))), tooLargeCode, "too_large")
	l.ok(settle(storeA, n, n+1, kvWrite("big-000000", "less"), kvWrite("big-000001", strings.Repeat("w", MaxPluginValue))))
	gone := kvWrite("big-000000", "")
	gone.Delete = true
	l.ok(settle(storeA, n+1, n+2, gone))
}

func letter(id string, sequence uint64) *gwv1.DeadLetterRecord {
	return &gwv1.DeadLetterRecord{Id: id, StoreId: storeA, PluginId: 7, Sequence: sequence, EdgeId: "e1", Namespace: "default", State: DeadLetterHeld}
}

func order(redeliver bool, ids ...string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_OrderDeadLetters{OrderDeadLetters: &gwv1.OrderDeadLetters{Ids: ids, Redeliver: redeliver}}}
}

func resolve(edge string, done, gone []string) *gwv1.Command {
	return &gwv1.Command{Actor: "edge/" + edge, Body: &gwv1.Command_ResolveDeadLetters{ResolveDeadLetters: &gwv1.ResolveDeadLetters{EdgeId: edge, Done: done, Gone: gone}}}
}

func TestDeadLetters(t *testing.T) {
	l := newLog(t)
	c := settle(storeA, 0, 3)
	c.GetSettlePayloads().DeadLetters = []*gwv1.DeadLetterRecord{letter("a", 1), letter("b", 2), letter("c", 3)}
	l.ok(c)
	l.refuses(order(true, "a", "nobody"), missingCode, "not_found")
	l.ok(order(true, "a", "b"))
	ordered := func(edge string) (ids string) {
		for d := range l.DeadLetterOrders(edge) {
			ids += d.Id + ":" + d.State + " "
		}
		return ids
	}
	if got := ordered("e1"); got != "a:redelivering b:redelivering " {
		t.Errorf("orders %q", got)
	}
	if got := ordered("e2"); got != "" {
		t.Errorf("another edge has the orders %q", got)
	}
	l.ok(resolve("e2", []string{"a"}, nil)) // not its own
	l.ok(resolve("e1", []string{"a"}, []string{"b", "c"}))
	if _, ok := l.DeadLetter("a"); ok {
		t.Error("a is still there")
	}
	if d, _ := l.DeadLetter("b"); d.GetState() != DeadLetterGone {
		t.Errorf("b is %v", d)
	}
	l.refuses(order(true, "b"), conditionRef, "precondition")
	l.ok(order(false, "b"))
	if _, ok := l.DeadLetter("b"); ok {
		t.Error("b is still there")
	}
	l.at += int64(keepDeadLetters) + 1
	l.ok(settle(storeA, 3, 4))
	if _, ok := l.DeadLetter("c"); ok {
		t.Error("c outlives its time")
	}
}

func TestWatermarksOfStoresThatAreGoneAreForgotten(t *testing.T) {
	l := newLog(t)
	l.ok(settle(storeA, 0, 5))
	l.at += int64(keepMarks)
	l.ok(settle(storeB, 0, 1))
	if got := l.PluginMark(storeA, 7); got != 5 {
		t.Errorf("mark %d, want 5", got)
	}
	l.at += int64(forgetEvery)
	l.ok(settle(storeB, 1, 2))
	if got := l.PluginMark(storeA, 7); got != 0 {
		t.Errorf("mark %d, want it forgotten", got)
	}
}

func TestDeadLettersAreBounded(t *testing.T) {
	l := newLog(t)
	n := uint64(0)
	for range maxDeadLetters/1000 + 1 {
		c := settle(storeA, n, n+1000)
		for range 1000 {
			n++
			c.GetSettlePayloads().DeadLetters = append(c.GetSettlePayloads().DeadLetters, letter(fmt.Sprintf("%06d", n), n))
		}
		l.at++
		l.ok(c)
	}
	if l.totals.deadLetters != maxDeadLetters {
		t.Errorf("%d kept, want %d", l.totals.deadLetters, maxDeadLetters)
	}
	if _, ok := l.DeadLetter("000001"); ok {
		t.Error("the oldest was kept")
	}
}
