package raftstore

import (
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// repeatPace is how often Raft's same complaint about the same hub is logged: it complains with each attempt, which is
// several times a second for as long as the hub is away.
const repeatPace = 30 * time.Second

// maxComplaints is how many are told apart.
const maxComplaints = 256

// complaint is a message about another hub.
type complaint struct{ message, peer string }

// repeats decides which complaints are logged. Safe for any number of goroutines.
type repeats struct {
	now func() time.Time

	mu   sync.Mutex
	seen map[complaint]*run
}

// run is a complaint made again and again.
type run struct {
	logged     time.Time
	suppressed int // since then
}

func newRaftLogger(log *slog.Logger) *raftLogger {
	return &raftLogger{log: log, name: "raft", repeats: &repeats{now: time.Now, seen: map[complaint]*run{}}}
}

// note reports whether a complaint is due: the first of a run, or the first in repeatPace. suppressed is how many were
// not since the last one that was.
func (r *repeats) note(c complaint) (suppressed int, due bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	known := r.seen[c]
	if known != nil && now.Sub(known.logged) < repeatPace {
		known.suppressed++
		return 0, false
	}
	if known != nil {
		suppressed = known.suppressed
	} else if len(r.seen) >= maxComplaints {
		maps.DeleteFunc(r.seen, func(_ complaint, k *run) bool { return now.Sub(k.logged) >= repeatPace })
		if len(r.seen) >= maxComplaints {
			return 0, true
		}
	}
	r.seen[c] = &run{logged: now}
	return suppressed, true
}

// peerOf finds the hub that Raft's message is about.
func peerOf(args []any) (peer string, ok bool) {
	for i := 0; i+1 < len(args); i += 2 {
		switch args[i] {
		case "peer", "target", "server-id":
			return fmt.Sprint(args[i+1]), true
		}
	}
	return "", false
}
