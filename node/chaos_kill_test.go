package node

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// kill -9 of the leader, again and again: a survivor accepts writes within the bound, and nothing acknowledged is lost.
func TestChaosKillLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	l := c.startLoad()
	var took []time.Duration
	for range rounds(3, 20) {
		l.awaitAccepted(20, healed)
		victim := c.leader()
		victim.kill()
		survivors := c.up()
		took = append(took, c.awaitWrite(survivors[len(took)%2], healed))
		l.awaitAccepted(20, healed)
		victim.start()
		c.awaitVoters(3)
	}
	slices.Sort(took)
	t.Logf("leader killed → write accepted on a survivor: median %v, worst %v of %d",
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	l.judge()
}

// kill -9 of all hubs at once: what was acknowledged is there when they are back.
func TestChaosKillAll(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3, "--election-timeout", "500ms")
	l := c.startLoad()
	for range rounds(2, 10) {
		l.awaitAccepted(50, healed)
		for _, h := range c.hubs {
			h.signal(syscall.SIGKILL)
		}
		for _, h := range c.hubs {
			h.kill()
		}
		for _, h := range c.hubs {
			h.launch()
		}
		for _, h := range c.hubs {
			h.awaitServing()
		}
		c.awaitWrite(c.hubs[0], healed)
	}
	l.awaitAccepted(20, healed)
	l.judge()
}

// SIGTERM of the leader: it hands leadership over, once, and writes hardly stop.
func TestChaosStopLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	l := c.startLoad()
	var worst time.Duration
	for range rounds(2, 10) {
		l.awaitAccepted(50, healed)
		old := c.leader()
		before, err := old.status()
		if err != nil {
			t.Fatal(err)
		}
		logged := len(old.log())
		began := time.Now()
		if code := old.stop(); code != 0 {
			t.Errorf("the leader exited with %d", code)
		}
		ended := time.Since(began)
		l.awaitAccepted(50, healed)
		gap := l.longestGap(began)
		worst = max(worst, gap)
		t.Logf("the process ended after %v; the longest time without an acknowledged write is %v", ended.Round(time.Millisecond), gap.Round(time.Millisecond))
		after, err := c.up()[0].status()
		if err != nil {
			t.Fatal(err)
		}
		if after.Term != before.Term+1 {
			t.Errorf("from term %d to %d: leadership was not handed over once", before.Term, after.Term)
		}
		if n := strings.Count(old.log()[logged:], "hands leadership over"); n != 1 {
			t.Errorf("the leader says %d times that it hands leadership over", n)
		}
		old.start()
		c.awaitVoters(3)
	}
	// Without handing over it would be the second that the listeners take to close, or an election, which takes more.
	if worst > time.Second {
		t.Errorf("no write was acknowledged for %v", worst)
	}
	l.judge()
}
