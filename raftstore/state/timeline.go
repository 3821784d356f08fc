package state

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

const (
	// maxTimeline is how many entries of an edge are kept, and maxTimelineBytes how long they are together at most.
	maxTimeline      = 32
	maxTimelineBytes = 32 << 10
	maxTimelineText  = 256
	// keepTimelines is how long the timeline of a removed edge is kept, in case it comes back.
	keepTimelines = 7 * 24 * time.Hour
)

// Timeline returns what happened to an edge, as far as the registry heard of it, oldest first; also of an edge that was
// removed some days ago.
func (s *State) Timeline(edgeID string) []*gwv1.TimelineEntry {
	r, ok := one[*gwv1.TimelineRecord](s.db.Txn(false), tableTimelines, byID, []byte(edgeID))
	if !ok {
		return nil
	}
	entries, err := timelineEntries(r.Entries)
	if err != nil {
		return nil // no state holds what was not checked
	}
	return entries
}

// happened adds to the timeline of an edge of a namespace; the time is the command's. An ID that is in another namespace now
// begins anew: who may see one namespace is not shown what happened in the other.
func (x *change) happened(edgeID, namespace string, entries ...*gwv1.TimelineEntry) {
	if len(entries) == 0 {
		return
	}
	old, _ := one[*gwv1.TimelineRecord](x.tx, tableTimelines, byID, []byte(edgeID))
	if old.GetNamespace() != namespace {
		old = nil
	}
	next := &gwv1.TimelineRecord{EdgeId: edgeID, Namespace: namespace}
	var added bytes.Buffer
	for _, e := range entries {
		e.At, e.Text = x.at, cut(e.Text, maxTimelineText)
		if e.Event == gwv1.TimelineEvent_TIMELINE_EVENT_REMOVED {
			next.RemovedAt = x.at
		}
		if _, err := protodelim.MarshalTo(&added, e); err != nil && x.err == nil {
			x.err = err
		}
	}
	kept := newestEntries(old.GetEntries(), maxTimeline-len(entries), maxTimelineBytes-added.Len())
	next.Entries = append(append(make([]byte, 0, len(kept)+added.Len()), kept...), added.Bytes()...)
	x.put(tableTimelines, next)
}

// newestEntries returns the end of a timeline: at most n entries, and at most limit bytes.
func newestEntries(entries []byte, n, limit int) []byte {
	var starts []int
	for at := 0; at < len(entries); {
		size, width := binary.Uvarint(entries[at:])
		if width <= 0 || size > uint64(len(entries)-at-width) {
			return nil
		}
		starts = append(starts, at)
		at += width + int(size)
	}
	for len(starts) > 0 && (len(starts) > n || len(entries)-starts[0] > limit) {
		starts = starts[1:]
	}
	if len(starts) == 0 {
		return nil
	}
	return entries[starts[0]:]
}

func timelineEntries(b []byte) (entries []*gwv1.TimelineEntry, err error) {
	for len(b) > 0 {
		size, width := binary.Uvarint(b)
		if width <= 0 || size > uint64(len(b)-width) {
			return nil, errors.New("an entry ends too soon")
		}
		e := &gwv1.TimelineEntry{}
		if err := proto.Unmarshal(b[width:width+int(size)], e); err != nil {
			return nil, err
		}
		entries = append(entries, e)
		b = b[width+int(size):]
	}
	return entries, nil
}

func validTimeline(r *gwv1.TimelineRecord) string {
	if p := first(nameProblem("edge ID", r.EdgeId), edgeNamespaceProblem(r.Namespace)); p != "" {
		return p
	}
	entries, err := timelineEntries(r.Entries)
	switch {
	case err != nil:
		return "a timeline that can't be read"
	case len(entries) == 0 || len(entries) > maxTimeline || len(r.Entries) > maxTimelineBytes:
		return fmt.Sprintf("a timeline of %d entries and %d bytes", len(entries), len(r.Entries))
	}
	return ""
}

// cut shortens text to at most limit bytes, at a character.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && s[limit]&0xc0 == 0x80 {
		limit--
	}
	return s[:limit]
}

// differences are the entries that an update of an edge's record gives.
func differences(old, e *gwv1.EdgeRecord) (entries []*gwv1.TimelineEntry) {
	add := func(event gwv1.TimelineEvent, release uint64, text string) {
		entries = append(entries, &gwv1.TimelineEntry{Event: event, Release: release, Text: text})
	}
	if old.Namespace != e.Namespace {
		add(gwv1.TimelineEvent_TIMELINE_EVENT_NAMESPACE_CHANGED, 0, "") // not which: see happened
	}
	if old.CertificateSerial != e.CertificateSerial && old.Lineage == e.Lineage {
		add(gwv1.TimelineEvent_TIMELINE_EVENT_CERTIFICATE_RENEWED, 0, "until "+time.Unix(0, e.CertificateNotAfter).UTC().Format(time.RFC3339))
	}
	if old.Version != e.Version || old.Build != e.Build && old.Build != "" { // enrolling tells no build
		text := old.Version + " → " + e.Version
		if old.Version == e.Version {
			text = e.Version + " of another build"
		}
		add(gwv1.TimelineEvent_TIMELINE_EVENT_VERSION_CHANGED, 0, text)
	}
	if (old.LoadedEpoch != e.LoadedEpoch || old.LoadedRelease != e.LoadedRelease) && e.LoadedRelease > 0 {
		add(gwv1.TimelineEvent_TIMELINE_EVENT_RELEASE_LOADED, e.LoadedRelease, "")
	}
	if f, was := e.Failure, old.Failure; f != nil && (f.Epoch != was.GetEpoch() || f.Release != was.GetRelease() || f.Code != was.GetCode()) {
		add(gwv1.TimelineEvent_TIMELINE_EVENT_APPLY_FAILED, f.Release, failureText(f))
	}
	return entries
}

// failureText is "API/orders spec.paths[0]: why".
func failureText(f *gwv1.LoadFailure) string {
	where := strings.TrimSpace(f.Kind + "/" + f.Name + " " + f.Field)
	if f.Kind == "" && f.Name == "" {
		return cmp.Or(f.Message, f.Code)
	}
	return where + ": " + cmp.Or(f.Message, f.Code)
}
