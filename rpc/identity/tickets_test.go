package identity

import (
	"crypto/tls"
	"testing"
	"time"
)

func TestTicketKeysAreTheSameAtEveryHub(t *testing.T) {
	ca, err := NewCA("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := LoadCA(ca.Certificate.Raw, key)
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewCA("c1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keys := func(ca *CA, period int64) [][32]byte {
		t.Helper()
		k, err := ca.TicketKeys(period)
		if err != nil || len(k) != 3 {
			t.Fatalf("%d keys, %v", len(k), err)
		}
		return k
	}
	p := TicketPeriod(time.Now())
	now, next, far := keys(ca, p), keys(loaded, p+1), keys(ca, p+2)
	if now[0] != next[1] || now[2] != next[0] {
		t.Error("hubs a period apart don't take each other's tickets")
	}
	for _, k := range far[:2] {
		if k == now[0] {
			t.Error("a ticket is taken two periods later")
		}
	}
	if keys(other, p)[0] == now[0] {
		t.Error("another CA has the same keys")
	}
	if TicketPeriod(time.Unix(0, 0)) == TicketPeriod(time.Unix(0, 0).Add(12*time.Hour)) {
		t.Error("the period doesn't end")
	}
}

func TestASessionIsThrownAwayAfterManyFailuresInARow(t *testing.T) {
	var l lastSession
	kept := func() bool { _, ok := l.Get("hub"); return ok }
	if kept() {
		t.Error("there is a session before any")
	}
	for range 3 { // a success between forgives what was before
		l.Put("hub", new(tls.ClientSessionState))
		for range maxSessionFailures - 1 {
			l.Put("hub", nil)
		}
		if !kept() {
			t.Fatal("a session is gone too soon")
		}
	}
	l.Put("hub", nil)
	if kept() {
		t.Error("a session that never works is kept for ever")
	}
}
