package raftstore

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestVirtualClusterElectsAndWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1})
		defer v.close()
		l := v.awaitLeader(10 * time.Second)
		if l == nil {
			t.Fatal("no leader")
		}
		t.Logf("leader %s after %v", l.hub.name, time.Since(v.began))
		if _, err := l.propose(t.Context(), save("default", "a", "x")); err != nil {
			t.Fatal(err)
		}
		v.crash(l.hub)
		l2 := v.awaitLeader(10 * time.Second)
		if l2 == nil {
			t.Fatal("no second leader")
		}
		t.Logf("leader %s after %v", l2.hub.name, time.Since(v.began))
		if _, err := l2.propose(t.Context(), save("default", "b", "x")); err != nil {
			t.Fatal(err)
		}
	})
}
