package raftstore

import (
	"testing"
	"time"
)

// The invariants that the store alone can show, by name. Each is an ordeal that goes for it, and counts that say it was
// put to the test. TestVirtualChaos checks all of them at once.
//
// Invariant 12, that no command panics, is FuzzApply and its siblings in state; the round trip of I14 is tested there as
// well, I18 in backup_test.go.

// withstand runs an ordeal with a few seeds and fails on every accusation. enough says what is missing if the runs
// together did not come near the invariant.
func withstand(t *testing.T, ordealOf func(seed uint64) ordeal, enough func(s tally) string) {
	t.Helper()
	var sum tally
	for seed := uint64(1); seed <= 3; seed++ {
		o := ordealOf(seed)
		d := undergo(t, o)
		sum.add(d)
		if len(d.wrong) > 0 {
			t.Errorf("seed %d: %v\nschedule:\n%s\nstory:\n%s", seed, d.wrong, describeSchedule(o.faults), d.story)
		}
	}
	if lacking := enough(sum); lacking != "" {
		t.Errorf("%s: %v", lacking, sum)
	}
	t.Log(sum)
}

// against is an ordeal of 15 s with faults of some kinds.
func against(seed uint64, only string, kinds ...faultKind) ordeal {
	const length = 15 * time.Second
	return ordeal{
		options: virtualOptions{seed: seed}, clients: 6, length: length, only: only, faults: schedule(seed, 3, length, kinds...),
	}
}

func lacks(yes bool, what string) string {
	if yes {
		return ""
	}
	return "too few " + what
}

// I1, and invariant 2: what is read is the newest, under partitions and kills.
func TestI1ResourcesAreLinearizable(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		return against(seed, "register", isolate, splitRing, deafen, mute, oneWay, killOne, killInFlight, slowNet)
	}, func(s tally) string {
		return lacks(s.ops > 1000 && s.elections > 6 && s.reads > 300, "calls, leaders or reads")
	})
}

func TestI2ChecksumsAreLinearizable(t *testing.T) {
	withstand(t, func(seed uint64) ordeal { return against(seed, "checksum", isolate, killOne, transfer) },
		func(s tally) string { return lacks(s.ops > 1000 && s.elections > 6, "calls or leaders") })
}

func TestI3JoinTokenIsUsedOnce(t *testing.T) {
	withstand(t, func(seed uint64) ordeal { return against(seed, "consume", isolate, killInFlight, resetAll) },
		func(s tally) string { return lacks(s.outcomes[refused] > 100 && s.elections > 6, "losers or leaders") })
}

func TestI4RepeatedKeyHasOneEffect(t *testing.T) {
	withstand(t, func(seed uint64) ordeal { return against(seed, "repeat", killInFlight, isolate, resetAll, killAll) },
		func(s tally) string {
			return lacks(s.outcomes[done] > 1000 && s.elections > 6, "repetitions or leaders")
		})
}

func TestI5RevokedTokenStaysRevoked(t *testing.T) {
	withstand(t, func(seed uint64) ordeal { return against(seed, "revoke", isolate, deafen, mute, killOne) },
		func(s tally) string { return lacks(s.ops > 500 && s.elections > 6, "calls or leaders") })
}

// I6, and invariant 1: also after a kill of all hubs at once, in the midst of writes.
func TestI6AcknowledgedWritesSurvive(t *testing.T) {
	withstand(t, func(seed uint64) ordeal { return against(seed, "register", killAll, killInFlight) },
		func(s tally) string { return lacks(s.outcomes[done] > 300 && s.elections > 9, "writes or leaders") })
}

// I7: a call that says it was not proposed has no effect, ever. Two of three hubs are away for long.
func TestI7WhatWasNotProposedNeverHappens(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "register", resetAll)
		o.faults = []fault{
			{at: 2 * time.Second, lasts: 11 * time.Second, kind: killOne, hub: 0},
			{at: 2 * time.Second, lasts: 11 * time.Second, kind: killOne, hub: 1},
		}
		return o
	}, func(s tally) string { return lacks(s.outcomes[notProposed] >= 6, "calls that were not proposed") })
}

// I8, and invariant 3: the same log and the same state at every index, whatever came as a snapshot.
func TestI8HubsAgreeAtEveryIndex(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "", killOne, killAll, isolate, snapshotOne, killInFlight, slowDisk)
		o.options.snapshotAfter, o.options.trailing, o.options.snapshotEvery = 20, 5, time.Second
		return o
	}, func(s tally) string {
		return lacks(s.compared > 30 && s.beacons > 0 && s.snapshots > 30, "comparisons or snapshots")
	})
}

func TestI9OneHubOpensATerm(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "register", isolate, deafen, mute, oneWay, transfer, killOne, slowNet)
		o.options.election = 300 * time.Millisecond
		return o
	}, func(s tally) string { return lacks(s.elections > 10, "leaders") })
}

// I13: hubs come, go, move and are replaced under everything else; there are never fewer voters than at first.
func TestI13MembersChange(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "", join, replace, move, killOne, isolate, transfer)
		o.length = 40 * time.Second
		o.faults = schedule(seed, 3, o.length, join, replace, move, killOne, isolate, transfer)
		o.atLeastVoters = 3
		return o
	}, func(s tally) string { return lacks(s.changes > 10, "changes") })
}

// I13: from one hub to three under load, with two voters only in passing.
func TestI13OneGrowsToThree(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "", join)
		o.options.hubs = 1
		o.faults = []fault{{at: time.Second, kind: join}, {at: 2 * time.Second, kind: killOne, hub: 1, lasts: time.Second}, {at: 4 * time.Second, kind: join}}
		o.twoVotersFor = twoVotersLimit
		return o
	}, func(s tally) string { return lacks(s.changes == 6, "hubs that joined") })
}

// I14: a hub that was away so long that the log has moved on is given a snapshot, under writes.
func TestI14LateHubIsGivenASnapshot(t *testing.T) {
	withstand(t, func(seed uint64) ordeal {
		o := against(seed, "", snapshotOne)
		o.options.snapshotAfter, o.options.trailing = 10, 5
		o.faults = []fault{
			{at: 2 * time.Second, kind: isolate, hub: 0, lasts: 6 * time.Second},
			{at: 6 * time.Second, kind: snapshotOne, hub: 1}, {at: 6 * time.Second, kind: snapshotOne, hub: 2},
		}
		return o
	}, func(s tally) string { return lacks(s.installed >= 3, "snapshots that were sent") })
}

// I15: after any single fault has ended, a write succeeds soon.
func TestI15WritesComeBack(t *testing.T) {
	for _, w := range weights {
		t.Run(string(w.kind), func(t *testing.T) {
			d := undergo(t, ordeal{
				options: virtualOptions{seed: 1}, clients: 2, length: 6 * time.Second,
				faults: []fault{{at: 2 * time.Second, lasts: 4 * time.Second, kind: w.kind, hub: -1, other: 1}},
			})
			if len(d.wrong) > 0 {
				t.Errorf("%v\n%s", d.wrong, d.story)
			}
			t.Logf("a write after %v", d.recovery)
		})
	}
}
