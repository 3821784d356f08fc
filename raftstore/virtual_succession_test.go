package raftstore

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// awaitSuccessor waits for another leader than the one before, and returns it with the time that took.
func (v *virtual) awaitSuccessor(before *life) (*life, time.Duration) {
	v.t.Helper()
	began := time.Now()
	for time.Since(began) < time.Minute {
		if l := v.leader(); l != nil && l.hub != before.hub {
			return l, time.Since(began)
		}
		time.Sleep(5 * time.Millisecond)
	}
	v.t.Fatal("nobody leads")
	return nil, 0
}

// followers returns the hubs that don't lead, by their turns.
func (v *virtual) followers(leader *life) (others []*virtualHub) {
	for _, h := range v.all() {
		if h != leader.hub {
			others = append(others, h)
		}
	}
	return others
}

// begin waits for a leader whom all hubs follow, with a first entry.
func (v *virtual) begin(t *testing.T) *life {
	t.Helper()
	l := v.mustLead(t)
	if _, err := l.propose(t.Context(), save("default", "a", "x")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	return l
}

// succeeded kills the leader and expects a successor within a time, who is not unseated again. ending is told of the kill.
func (v *virtual) succeeded(t *testing.T, l *life, within time.Duration, ending func()) *life {
	t.Helper()
	term, began := v.newestTerm(), time.Now()
	v.crash(l.hub)
	if ending != nil {
		ending()
	}
	next := v.leader()
	for ; next == nil || next == l; next = v.leader() {
		if time.Sleep(5 * time.Millisecond); time.Since(began) > time.Minute {
			t.Fatal("nobody leads")
		}
	}
	if took := time.Since(began); took > within {
		t.Errorf("%d hubs, seed %d: succeeded after %v", len(v.all()), v.options.seed, took)
	}
	if _, err := next.propose(t.Context(), save("default", "b", "x")); err != nil {
		t.Error(err)
	}
	if time.Sleep(3 * time.Second); v.newestTerm() != term+1 || v.leader() != next {
		t.Errorf("%d hubs, seed %d: term %d after %d", len(v.all()), v.options.seed, v.newestTerm(), term)
	}
	return next
}

// A leader whose process ends has a successor long before anybody would miss it, whatever the number of hubs.
func TestALeaderThatEndsIsSucceededSoon(t *testing.T) {
	for _, hubs := range []int{3, 5} {
		for seed := range uint64(5) {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: seed, hubs: hubs})
				defer v.close()
				v.succeeded(t, v.begin(t), 350*time.Millisecond, nil)
			})
		}
	}
}

// A supervisor may start the hub again before others would stand: that it listens again doesn't hide that it was gone.
func TestALeaderThatIsStartedAgainIsSucceededSoon(t *testing.T) {
	for _, down := range []time.Duration{20, 100, 200, 249, 251, 400} {
		for seed := range uint64(3) {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: seed, hubs: 3 + 2*int(seed%2)})
				defer v.close()
				l := v.begin(t)
				v.succeeded(t, l, 700*time.Millisecond, func() {
					v.tasks.Go(func() {
						time.Sleep(down * time.Millisecond)
						v.revive(l.hub)
					})
				})
			})
		}
	}
}

// A process that is killed with many connections may close those between hubs long before its port.
func TestALeaderWhosePortOutlivesItsConnectionsIsSucceeded(t *testing.T) {
	for seed := range uint64(8) {
		bubble(t, func(t *testing.T) {
			v := newVirtual(t, virtualOptions{seed: seed})
			defer v.close()
			l, open := v.begin(t), time.Duration(seed+1)*100*time.Millisecond
			port := v.network.listen(l.hub.name) // in the place of the leader's own
			v.tasks.Go(func() {
				for c, err := port.Accept(); err == nil; c, err = port.Accept() {
					c.Close()
				}
			})
			v.succeeded(t, l, open+350*time.Millisecond, func() {
				v.network.reset(func(a, b string) bool { return a == l.hub.name })
				v.tasks.Go(func() {
					time.Sleep(open)
					port.Close()
				})
			})
		})
	}
}

// A connection that breaks shortly before has one follower look sooner than the others, who are not ready to vote yet.
func TestALeaderIsSucceededSoonAfterAConnectionBroke(t *testing.T) {
	for _, before := range []time.Duration{60, 100, 140, 180} {
		for seed := range uint64(4) {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: seed})
				defer v.close()
				l := v.begin(t)
				first := v.followers(l)[0].name
				v.network.reset(func(a, b string) bool { return a == l.hub.name && b == first })
				time.Sleep(before * time.Millisecond)
				v.succeeded(t, l, 600*time.Millisecond, nil)
			})
		}
	}
}

// The first in turn lacks what the leader committed with the other: it gets no vote, and the other comes next.
func TestTheNextStandsWhenTheFirstLacksEntries(t *testing.T) {
	for seed := range uint64(10) {
		bubble(t, func(t *testing.T) {
			v := newVirtual(t, virtualOptions{seed: seed})
			defer v.close()
			l := v.begin(t)
			others := v.followers(l)
			v.network.cut(l.hub.name, others[0].name)
			for i := range 5 {
				if _, err := l.propose(t.Context(), save("default", fmt.Sprint("b", i), "x")); err != nil {
					t.Fatal(err)
				}
			}
			v.crash(l.hub)
			v.network.heal()
			next, took := v.awaitSuccessor(l)
			if next.hub != others[1] || took > 650*time.Millisecond {
				t.Errorf("seed %d: %s leads after %v", seed, next.hub.name, took)
			}
		})
	}
}

// Whatever the disks take for a write, who stands first is not unseated by the next.
func TestSlowDisksDoNotMakeSuccessorsUnseatEachOther(t *testing.T) {
	for _, write := range []time.Duration{20, 50, 80, 100, 150, 200, 300} {
		for seed := range uint64(5) {
			bubble(t, func(t *testing.T) {
				write := write * time.Millisecond
				v := newVirtual(t, virtualOptions{seed: seed, disk: diskFaults{fastest: write, slowest: write + time.Millisecond}})
				defer v.close()
				l := v.begin(t)
				v.crash(l.hub)
				next, took := v.awaitSuccessor(l)
				if write <= 100*time.Millisecond && took > 1200*time.Millisecond {
					t.Errorf("writes of %v, seed %d: succeeded after %v", write, seed, took)
				}
				t.Logf("writes of %v, seed %d: succeeded after %v", write, seed, took)
				term := v.newestTerm()
				time.Sleep(5 * time.Second)
				if now := v.newestTerm(); now != term || v.leader() != next {
					t.Errorf("writes of %v, seed %d: term %d after %d", write, seed, now, term)
				}
			})
		}
	}
}

// A hub that can't dial a leader takes the lead from nobody: not though the leader can't dial it either, as long as the
// others follow; and not for a moment if it hears the leader itself.
func TestAHubThatIsRefusedByTheLeaderDoesNotUnseatIt(t *testing.T) {
	for _, both := range []bool{false, true} {
		for turn := range 2 {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: uint64(turn)})
				defer v.close()
				l := v.begin(t)
				term := v.newestTerm()
				follower := v.followers(l)[turn].name
				for i := range 100 {
					if i%20 == 0 {
						v.network.refuse(follower, l.hub.name, 0)
						if both {
							v.network.refuse(l.hub.name, follower, 0)
						}
					}
					if _, err := l.propose(t.Context(), save("default", fmt.Sprint("b", i), "x")); err != nil {
						t.Fatalf("write %d: %v", i, err)
					}
					time.Sleep(100 * time.Millisecond)
				}
				if v.leader() != l {
					t.Errorf("%s leads no more", l.hub.name)
				}
				if now := v.newestTerm(); !both && now != term {
					t.Errorf("term %d after %d", now, term)
				}
				v.network.heal()
				next := v.mustLead(t)
				if _, err := next.propose(t.Context(), save("default", "c", "x")); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// Silence proves nothing: it takes an election timeout, and a connection that merely broke takes nobody's lead.
func TestASilentLeaderIsNotSucceededSoon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1})
		defer v.close()
		l := v.begin(t)
		for range 20 {
			v.network.reset(func(string, string) bool { return true })
			time.Sleep(100 * time.Millisecond)
		}
		if v.leader() != l {
			t.Fatalf("%s leads no more", l.hub.name)
		}
		term := v.newestTerm()
		for _, h := range v.followers(l) {
			v.network.cut(l.hub.name, h.name)
			v.network.cut(h.name, l.hub.name)
		}
		v.network.reset(func(a, b string) bool { return a == l.hub.name })
		if time.Sleep(700 * time.Millisecond); v.newestTerm() != term {
			t.Error("a hub stood before it could miss the leader")
		}
		if _, took := v.awaitSuccessor(l); took < 100*time.Millisecond {
			t.Errorf("succeeded after %v", took)
		}
	})
}

// A refusal that comes late, when the leader is heard again, is none.
func TestALateRefusalUnseatsNobody(t *testing.T) {
	for _, silent := range []time.Duration{100, 150, 200} {
		for turn := range 2 {
			bubble(t, func(t *testing.T) {
				v := newVirtual(t, virtualOptions{seed: uint64(turn)})
				defer v.close()
				l := v.begin(t)
				term := v.newestTerm()
				hub := v.followers(l)[turn].name
				v.network.refuse(hub, l.hub.name, 200*time.Millisecond)
				v.network.cut(l.hub.name, hub)
				time.Sleep(silent * time.Millisecond)
				v.network.heal()
				if time.Sleep(5 * time.Second); v.newestTerm() != term || v.leader() != l {
					t.Errorf("silent for %d ms: term %d after %d", silent, v.newestTerm(), term)
				}
			})
		}
	}
}

// A leader that was heard while the refusal was on its way is not gone when it falls silent afterwards.
func TestAnOldRefusalProvesNothing(t *testing.T) {
	for seed := range uint64(10) {
		bubble(t, func(t *testing.T) {
			v := newVirtual(t, virtualOptions{seed: seed})
			defer v.close()
			l := v.begin(t)
			term, hub := v.newestTerm(), v.followers(l)[0].name
			v.network.refuse(hub, l.hub.name, 200*time.Millisecond)
			time.Sleep(201 * time.Millisecond)
			v.network.heal()
			v.network.cut(l.hub.name, hub)
			v.network.cut(hub, l.hub.name)
			v.network.reset(func(a, b string) bool { return a == l.hub.name && b == hub })
			if time.Sleep(800 * time.Millisecond); v.newestTerm() != term {
				t.Error("it stood for election")
			}
		})
	}
}

// One hub is refused by a leader that both miss: the other, who is not, doesn't vote for it.
func TestAVoteIsKeptBackForALeaderThatIsOnlySilent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1})
		defer v.close()
		l := v.begin(t)
		others := v.followers(l)
		v.network.refuse(others[0].name, l.hub.name, 0)
		for _, h := range others {
			v.network.cut(l.hub.name, h.name)
		}
		for began := time.Now(); time.Since(began) < 900*time.Millisecond; time.Sleep(10 * time.Millisecond) {
			if now := v.leader(); now != nil && now != l {
				t.Fatalf("%s leads after %v", now.hub.name, time.Since(began))
			}
		}
	})
}

// Leadership can be handed to a hub that stood by itself before.
func TestAHubThatStoodByItselfCanBeHandedTheLead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		v := newVirtual(t, virtualOptions{seed: 1})
		defer v.close()
		l := v.begin(t)
		first := l.hub
		v.crash(first)
		second, _ := v.awaitSuccessor(l)
		v.revive(first)
		v.catchUp(t, first.now(), 10*time.Second)
		for _, to := range []*virtualHub{first, second.hub} {
			from := v.mustLead(t)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := from.store.TransferLeadership(ctx, to.name); err != nil {
				t.Fatal(err)
			}
			next, took := v.awaitSuccessor(from)
			if next.hub != to || took > 500*time.Millisecond {
				t.Errorf("%s leads after %v instead of %s", next.hub.name, took, to.name)
			}
			v.catchUp(t, next, 5*time.Second)
			time.Sleep(3 * time.Second)
		}
	})
}
