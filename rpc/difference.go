package rpc

import (
	"bytes"
	"cmp"
	"iter"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// difference yields, in order, what is only before (after is nil), only after (before is nil), and what both have with
// different digests. Both sequences must be sorted by kind and name.
func difference(before, after iter.Seq[*gwv1.ReleaseEntry]) iter.Seq2[*gwv1.ReleaseEntry, *gwv1.ReleaseEntry] {
	return func(yield func(before, after *gwv1.ReleaseEntry) bool) {
		nextBefore, stopBefore := iter.Pull(before)
		defer stopBefore()
		nextAfter, stopAfter := iter.Pull(after)
		defer stopAfter()
		b, moreBefore := nextBefore()
		a, moreAfter := nextAfter()
		for moreBefore || moreAfter {
			order := 0
			switch {
			case !moreAfter:
				order = -1
			case !moreBefore:
				order = 1
			default:
				order = cmp.Or(cmp.Compare(b.Kind, a.Kind), cmp.Compare(b.Name, a.Name))
			}
			going := true
			switch {
			case order < 0:
				going = yield(b, nil)
			case order > 0:
				going = yield(nil, a)
			case !bytes.Equal(b.Digest, a.Digest):
				going = yield(b, a)
			}
			if !going {
				return
			}
			if order <= 0 {
				b, moreBefore = nextBefore()
			}
			if order >= 0 {
				a, moreAfter = nextAfter()
			}
		}
	}
}

// entriesIn returns the entries of a release; nil has none.
func entriesIn(r *state.Release) iter.Seq[*gwv1.ReleaseEntry] {
	if r == nil {
		return func(func(*gwv1.ReleaseEntry) bool) {}
	}
	return r.Entries()
}
