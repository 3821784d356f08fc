package node

import (
	"fmt"
	"testing"
	"time"
)

// SIGSTOP of the leader, for less and for longer than an election takes: when it goes on it does not answer with what
// it knew before.
func TestChaosPauseLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms")
	l := c.startLoad()
	pauses := []time.Duration{300 * time.Millisecond, 1500 * time.Millisecond, 2500 * time.Millisecond}
	for i := range rounds(len(pauses), 30) {
		l.awaitAccepted(20, healed)
		old := c.leader()
		old.put("paused", "before")
		// A follower that stands still meanwhile answers the leader's last heartbeat when that can't hear it any more.
		late := c.others(old)[0]
		late.pause()
		heard := time.Now().Add(150 * time.Millisecond) // heartbeats come at least twice as often
		c.await(healed, "the follower was asked", func() error { return notYet(heard) })
		old.pause()
		late.resume()
		began, length := time.Now(), pauses[i%len(pauses)]+time.Duration(i/len(pauses))*300*time.Millisecond
		want := "before"
		if length > time.Second {
			c.up()[0].put("paused", "after") // passed on to the leader that stands still, and then to the next
			t.Logf("leader paused → write accepted by another: %v", time.Since(began).Round(time.Millisecond))
			want = "after"
		}
		// These questions wait beside answers of the others from before they had another leader.
		answers := old.readAtOnce(8, "paused")
		c.await(length+healed, "the pause is over", func() error { return notYet(began.Add(length)) })
		old.resume()
		for range 8 {
			if a := <-answers; a.err == nil && a.value != want {
				t.Errorf("paused for %v, the former leader answers %q, want %q", length, a.value, want)
			}
		}
		took := c.awaitWrite(old, healed)
		t.Logf("paused for %v; %v later it accepts writes again", length, took.Round(time.Millisecond))
	}
	l.judge()
}

type answer struct {
	value string
	err   error
}

// readAtOnce makes n calls for what is saved under a name; the answers come when the hub gives them.
func (h *process) readAtOnce(n int, name string) <-chan answer {
	answers := make(chan answer, n)
	for range n {
		go func() { // ends with its call, which takes callTimeout at most
			value, err := h.value(name, false)
			answers <- answer{value, err}
		}()
	}
	return answers
}

// notYet is an error before a time.
func notYet(at time.Time) error {
	if left := time.Until(at); left > 0 {
		return fmt.Errorf("in %v", left)
	}
	return nil
}
