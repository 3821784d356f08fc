package fleet

import (
	"fmt"
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/identity"
)

func TestABusyLeaderAsksForFewerHeartbeats(t *testing.T) {
	f := New(Config{Interval: 30 * time.Second})
	beat := func() time.Duration {
		return f.Beat(identity.Edge{ID: "e1", Namespace: "default"}, "", &gwv1.HeartbeatRequest{SessionId: "s1"}, Certificate{})
	}
	for range 1000 {
		f.Took(2 * time.Millisecond)
	}
	if got := beat(); got != 30*time.Second {
		t.Errorf("of a quick leader the interval is %v, want 30s", got)
	}
	f.Took(time.Second) // one slow heartbeat is no load
	if got := beat(); got != 30*time.Second {
		t.Errorf("after one slow heartbeat the interval is %v, want 30s", got)
	}
	for range 1000 {
		f.Took(250 * time.Millisecond)
	}
	if got := beat(); got < 70*time.Second || got > 75*time.Second {
		t.Errorf("of a leader that takes 250 ms the interval is %v, want about 75s", got)
	}
	for range 1000 {
		f.Took(time.Minute)
	}
	if got := beat(); got != 2*time.Minute {
		t.Errorf("the interval was stretched to %v, want no more than 2m", got)
	}
	for range 1000 {
		f.Took(time.Millisecond)
	}
	if got := beat(); got != 30*time.Second {
		t.Errorf("after the load the interval is %v, want 30s again", got)
	}
}

func TestAFleetThatComesBackAtOnceIsNoLastingLoad(t *testing.T) {
	f := New(Config{Interval: 30 * time.Second})
	var interval time.Duration
	for i := range 2000 { // two of each of a thousand edges, slow ones
		id := fmt.Sprint("e", i%1000)
		interval = f.Beat(identity.Edge{ID: id, Namespace: "default"}, "", &gwv1.HeartbeatRequest{SessionId: id}, Certificate{})
		if i >= 1000 {
			f.Took(250 * time.Millisecond)
		}
	}
	if interval != 30*time.Second {
		t.Errorf("after a storm the interval is %v, want 30s", interval)
	}
}
