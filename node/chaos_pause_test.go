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
		old.pause()
		began, length := time.Now(), pauses[i%len(pauses)]+time.Duration(i/len(pauses))*300*time.Millisecond
		elected := length > time.Second
		if elected {
			c.up()[0].put("paused", "after") // passed on to the leader that stands still, and then to the next
			t.Logf("leader paused → write accepted by another: %v", time.Since(began).Round(time.Millisecond))
		}
		c.await(length+healed, "the pause is over", func() error { return notYet(began.Add(length)) })
		old.resume()
		if value, err := old.value("paused", false); err == nil && elected && value != "after" {
			t.Errorf("paused for %v, the former leader answers %q", length, value)
		}
		took := c.awaitWrite(old, healed)
		t.Logf("paused for %v; %v later it accepts writes again", length, took.Round(time.Millisecond))
	}
	l.judge()
}

// notYet is an error before a time.
func notYet(at time.Time) error {
	if left := time.Until(at); left > 0 {
		return fmt.Errorf("in %v", left)
	}
	return nil
}
