package raftstore

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"gw/raftstore/state"
)

// The controls are clusters with something wrong in them. A suite that does not notice proves nothing.

// mustAccuse fails unless one of a few seeds gets an accusation that starts with one of prefixes.
func mustAccuse(t *testing.T, what string, ordealOf func(seed uint64) ordeal, prefixes ...string) {
	t.Helper()
	for seed := uint64(1); seed <= 8; seed++ {
		for _, wrong := range undergo(t, ordealOf(seed)).wrong {
			for _, p := range prefixes {
				if strings.HasPrefix(wrong, p) {
					t.Logf("%s: caught by seed %d: %s", what, seed, wrong)
					return
				}
			}
		}
	}
	t.Errorf("%s: not caught", what)
}

func TestControlStaleReadsAreCaught(t *testing.T) {
	mustAccuse(t, "reads without asking the others", func(seed uint64) ordeal {
		return ordeal{
			options: virtualOptions{seed: seed}, clients: 5, length: 15 * time.Second, stale: true,
			faults: schedule(seed, 3, 15*time.Second, isolate, splitRing),
		}
	}, "I1")
}

func TestControlSkippedFsyncIsCaught(t *testing.T) {
	mustAccuse(t, "a disk that acknowledges what it has not written", func(seed uint64) ordeal {
		return ordeal{
			options: virtualOptions{seed: seed, disk: diskFaults{lies: 2 * time.Second}}, clients: 5, length: 15 * time.Second,
			faults: schedule(seed, 3, 15*time.Second, killAll),
		}
	}, "I1", "I6")
}

func TestControlIndeterminateApplyIsCaught(t *testing.T) {
	mustAccuse(t, "a hub that applies by its own clock", func(seed uint64) ordeal {
		return ordeal{
			options: virtualOptions{seed: seed, distort: func(hub string) func(l *raft.Log) {
				if hub != "h3" {
					return nil
				}
				return byOwnClock
			}}, clients: 5, length: 15 * time.Second,
		}
	}, "I8: at index")
}

// byOwnClock gives an entry the time at which it is applied.
func byOwnClock(l *raft.Log) {
	c := state.DecodeCommand(l.Data)
	if l.Type != raft.LogCommand || c.GetChangeResources() == nil {
		return
	}
	c.ProposedAt = time.Now().UnixNano()
	if data, err := state.EncodeCommand(c); err == nil {
		l.Data = data
	}
}

// A disk that is honest but slow, and no faults: nothing is to be accused, or the controls would show nothing.
func TestControlNothingWrongIsNotAccused(t *testing.T) {
	d := undergo(t, ordeal{
		options: virtualOptions{seed: 1, disk: diskFaults{fastest: 5 * time.Millisecond, slowest: 20 * time.Millisecond}},
		clients: 5, length: 15 * time.Second,
	})
	if len(d.wrong) > 0 {
		t.Errorf("accused: %v", d.wrong)
	}
	if d.ledger.elections != 1 || d.history.counts[unknown] > 0 {
		t.Errorf("%d leaderships and %d unknown outcomes without a fault", d.ledger.elections, d.history.counts[unknown])
	}
}
