package state

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// fleetLog is a log with a join token of namespace x that any number of edges may use.
func fleetLog(t *testing.T) *log {
	l := newLog(t)
	l.ok(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c"}}})
	l.ok(&gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
		Id: "j", Role: "edge", Namespace: "x", SecretHash: hashOf("j"), ExpiresAt: l.at + int64(1000*time.Hour),
	}}}})
	return l
}

func enrolls(e *gwv1.EdgeRecord) *gwv1.Command {
	return &gwv1.Command{Body: &gwv1.Command_EnrollEdge{EnrollEdge: &gwv1.EnrollEdge{JoinTokenId: "j", Edge: e}}}
}

func updates(edges ...*gwv1.EdgeRecord) *gwv1.Command {
	return &gwv1.Command{Body: &gwv1.Command_UpdateEdges{UpdateEdges: &gwv1.UpdateEdges{Edges: edges}}}
}

func revokes(id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RevokeEdge{RevokeEdge: &gwv1.RevokeEdgeRecord{Id: id}}}
}

func retries(id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RetryEdge{RetryEdge: &gwv1.RetryEdgeRecord{Id: id}}}
}

func removes(id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RemoveEdge{RemoveEdge: &gwv1.RemoveEdgeRecord{Id: id}}}
}

func TestARevokedEdgeComesBackOnlyByEnrolling(t *testing.T) {
	l := fleetLog(t)
	l.refuses(revokes("e"), missingCode, "not_found")
	first := &gwv1.EdgeRecord{Id: "e", Namespace: "x", CertificateSerial: "1", Lineage: l.Stamp(), FirstSeen: 7}
	l.ok(enrolls(first))
	if l.Revoked("e", first.Lineage) != nil {
		t.Fatal("a new edge is revoked")
	}
	early := l.Stamp() // of an enrolment that is on its way while the edge is revoked
	notice := l.Cluster().EdgeNotice
	l.ok(revokes("e"))
	r := l.Revoked("e", first.Lineage)
	if r.GetBy() != "ann" || r.GetAt() != l.at || l.Cluster().EdgeNotice <= notice {
		t.Errorf("revocation %v, notice %d", r, l.Cluster().EdgeNotice)
	}
	seen := &gwv1.EdgeRecord{Id: "e", Namespace: "x", CertificateSerial: "2", Lineage: first.Lineage, Version: "9", CertificateNotAfter: 99}
	l.ok(updates(seen))
	if e, _ := l.Edge("e"); e.Version == "9" {
		t.Error("a heartbeat that was heard before the revocation counts after it")
	}
	l.refuses(retries("e"), conditionRef, "revoked")
	l.refuses(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: early}), changedCode, "changed")

	// Removing the entry doesn't make the certificate good again.
	l.ok(removes("e"))
	l.ok(updates(seen))
	if _, ok := l.Edge("e"); ok || l.Revoked("e", first.Lineage) == nil {
		t.Errorf("removed after it was revoked: registered again %v, revoked %v", ok, l.Revoked("e", first.Lineage))
	}

	second := &gwv1.EdgeRecord{Id: "e", Namespace: "x", CertificateSerial: "3", Lineage: l.Stamp()}
	l.refuses(enrolls(second), deniedCode, "revoked") // the token it had, which has uses left
	l.ok(&gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
		Id: "fresh", Role: "edge", Namespace: "x", SecretHash: hashOf("fresh"), ExpiresAt: l.at + int64(time.Hour),
	}}}})
	fresh := enrolls(second)
	fresh.GetEnrollEdge().JoinTokenId = "fresh"
	l.ok(fresh)
	if e, ok := l.Edge("e"); !ok || l.Revoked("e", second.Lineage) != nil || e.FirstSeen != l.at {
		t.Errorf("enrolled again: %v, revoked %v", e, l.Revoked("e", second.Lineage))
	}
	if l.Revoked("e", first.Lineage) == nil {
		t.Error("the old certificate is good again")
	}
}

func TestRevocationsOutliveRestoresAndEveryCertificateTheyMean(t *testing.T) {
	l := fleetLog(t)
	e := &gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: l.Stamp()}
	l.ok(enrolls(e))
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "good", Namespace: "x", Lineage: l.Stamp()}))
	backup := l.State
	l.ok(revokes("e"))
	restored, err := Restore(l.State, backup, Restoration{Index: l.Index() + 1_000_000, At: l.at})
	if err != nil {
		t.Fatal(err)
	}
	if restored.Revoked("e", e.Lineage) == nil || restored.Revoked("good", backup.Stamp()) != nil {
		t.Errorf("restored: revoked %v, the other %v", restored.Revoked("e", e.Lineage), restored.Revoked("good", backup.Stamp()))
	}
	if restored.Stamp() <= l.Stamp() {
		t.Errorf("stamps fall from %x to %x", l.Stamp(), restored.Stamp())
	}
	// A cluster that lost its newest entries goes on at a lower index and a higher epoch.
	if a, b := Stamp(1, 1_000_000), Stamp(2, 5); a >= b {
		t.Errorf("stamp %x of epoch 1 is not below %x of epoch 2", a, b)
	}

	l.at += int64(119 * 24 * time.Hour)
	l.ok(retries("good"))
	if _, ok := l.Edge("e"); !ok || l.Revoked("e", e.Lineage) == nil {
		t.Error("forgotten while its certificate could be renewed")
	}
	l.at += int64(2 * 24 * time.Hour)
	l.ok(retries("good"))
	if _, ok := l.Edge("e"); ok || l.Revoked("e", e.Lineage) != nil {
		t.Error("a revocation that means nothing any more is kept")
	}
}

func TestARetryRaisesAValueThatSurvives(t *testing.T) {
	l := fleetLog(t)
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: l.Stamp()}))
	was := uint64(0)
	for range 3 {
		l.ok(retries("e"))
		e, _ := l.Edge("e")
		if e.Retry <= was || l.Cluster().EdgeNotice != e.Retry {
			t.Fatalf("retry is %d after %d, notice %d", e.Retry, was, l.Cluster().EdgeNotice)
		}
		was = e.Retry
	}
	l.ok(updates(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Version: "2", Lineage: l.Stamp(), Retry: 1}))
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: l.Stamp()}))
	if e, _ := l.Edge("e"); e.Retry != was {
		t.Errorf("retry is %d, want %d", e.Retry, was)
	}
	l.refuses(retries("nobody"), missingCode, "not_found")
}

func TestLabelsOfAnEdgeAreTheAdmins(t *testing.T) {
	l := fleetLog(t)
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Labels: map[string]string{"zone": "a", "tier": "1"}, Lineage: l.Stamp()}))
	label := func(set map[string]string, remove ...string) *gwv1.Command {
		return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_LabelEdge{LabelEdge: &gwv1.LabelEdgeRecord{Id: "e", Set: set, Remove: remove}}}
	}
	l.ok(label(map[string]string{"zone": "b", "new": ""}, "tier", "absent"))
	e, _ := l.Edge("e")
	if got := shownLabels(e.Labels); got != "new= zone=b" {
		t.Errorf("labels %q", got)
	}
	entries := len(l.Timeline("e"))
	l.ok(label(map[string]string{"zone": "b"}))
	if len(l.Timeline("e")) != entries {
		t.Error("a label that is as it was is told")
	}
	l.refuses(label(map[string]string{"": "x"}), invalidCode, "invalid")
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Labels: map[string]string{"new": "token's"}, Lineage: l.Stamp()}))
	if e, _ := l.Edge("e"); shownLabels(e.Labels) != "new=token's zone=b" {
		t.Errorf("after it lost its disk: labels %q", shownLabels(e.Labels))
	}
	// What the leader noted of the edge before the labels were changed doesn't change them back.
	l.ok(updates(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Version: "2", Labels: map[string]string{"zone": "a"}, Lineage: e.Lineage}))
	if e, _ := l.Edge("e"); e.Version != "2" || e.Labels["zone"] != "b" {
		t.Errorf("after a batch made earlier: %v", e)
	}
}

func TestTimelineOfAnEdge(t *testing.T) {
	l := fleetLog(t)
	lineage := l.Stamp()
	e := func(change func(*gwv1.EdgeRecord)) *gwv1.EdgeRecord {
		r := &gwv1.EdgeRecord{Id: "e", Namespace: "x", Version: "1", CertificateSerial: "1", CertificateNotAfter: 1, Lineage: lineage}
		change(r)
		return r
	}
	fault := &gwv1.LoadFailure{Epoch: 1, Release: 4, Code: "compile", Kind: "API", Name: "orders", Message: "no"}
	l.ok(enrolls(e(func(r *gwv1.EdgeRecord) {})))
	l.ok(updates(e(func(r *gwv1.EdgeRecord) { r.LoadedRelease, r.LoadedEpoch, r.Build = 3, 1, "b" })))
	l.ok(updates(e(func(r *gwv1.EdgeRecord) { r.LoadedRelease, r.LoadedEpoch, r.Build, r.Failure = 3, 1, "b", fault })))
	l.ok(updates(e(func(r *gwv1.EdgeRecord) {
		r.LoadedRelease, r.LoadedEpoch, r.Build, r.Failure, r.Version = 3, 1, "b", fault, "2"
	})))
	l.ok(updates(e(func(r *gwv1.EdgeRecord) {
		r.LoadedRelease, r.LoadedEpoch, r.Build, r.Version, r.CertificateSerial, r.CertificateNotAfter = 3, 1, "b", "2", "2", 60_000_000_000
	})))
	l.ok(retries("e"))
	l.ok(revokes("e"))
	l.ok(removes("e"))
	var got []string
	for _, x := range l.Timeline("e") {
		if x.At != l.at {
			t.Errorf("%v at %d, want %d", x.Event, x.At, l.at)
		}
		name := strings.ToLower(strings.TrimPrefix(x.Event.String(), "TIMELINE_EVENT_"))
		got = append(got, strings.Join(strings.Fields(fmt.Sprintf("%s %d %s %s", name, x.Release, x.Text, x.By)), " "))
	}
	want := []string{
		"enrolled 0 join token j", "release_loaded 3", "apply_failed 4 API/orders: no", "version_changed 0 1 → 2",
		"certificate_renewed 0 until 1970-01-01T00:01:00Z", "retry_asked 0 ann", "revoked 0 ann", "removed 0 ann",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// A removed edge's is kept for a week.
	l.at += int64(6 * 24 * time.Hour)
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "other", Namespace: "x", Lineage: l.Stamp()}))
	if len(l.Timeline("e")) == 0 {
		t.Error("forgotten after 6 days")
	}
	l.at += int64(2 * 24 * time.Hour)
	l.ok(retries("other"))
	if len(l.Timeline("e")) != 0 || len(l.Timeline("other")) != 2 {
		t.Errorf("after 8 days: %d of the removed one, %d of the other", len(l.Timeline("e")), len(l.Timeline("other")))
	}
}

func TestTimelineKeepsTheNewest(t *testing.T) {
	l := fleetLog(t)
	lineage := l.Stamp()
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: lineage}))
	for n := range uint64(100) {
		l.ok(updates(&gwv1.EdgeRecord{Id: "e", Namespace: "x", LoadedEpoch: 1, LoadedRelease: n + 1, Lineage: lineage}))
	}
	got := l.Timeline("e")
	if len(got) != maxTimeline || got[maxTimeline-1].Release != 100 || got[0].Release != 100-maxTimeline+1 {
		t.Errorf("%d entries, from release %d to %d", len(got), got[0].Release, got[len(got)-1].Release)
	}
	r, _ := one[*gwv1.TimelineRecord](l.db.Txn(false), tableTimelines, byID, []byte("e"))
	if len(r.Entries) > 32*20 {
		t.Errorf("%d bytes for %d entries", len(r.Entries), len(got))
	}
	// Long texts are cut, and make room for one another.
	text := strings.Repeat("é", 600)
	for n := range uint64(40) {
		l.ok(updates(&gwv1.EdgeRecord{Id: "e", Namespace: "x", LoadedEpoch: 1, LoadedRelease: 100, Lineage: lineage,
			Version: text[:500+2*n], Build: text[:500]}))
	}
	for _, x := range l.Timeline("e") {
		if len(x.Text) > maxTimelineText || x.Text != strings.ToValidUTF8(x.Text, "?") {
			t.Errorf("a text of %d bytes: %q", len(x.Text), x.Text)
		}
	}
	if p := validTimeline(r); p != "" {
		t.Error(p)
	}
}

func TestDamagedTimelinesAreRefused(t *testing.T) {
	l := fleetLog(t)
	l.ok(enrolls(&gwv1.EdgeRecord{Id: "e", Namespace: "x", Lineage: l.Stamp()}))
	r, _ := one[*gwv1.TimelineRecord](l.db.Txn(false), tableTimelines, byID, []byte("e"))
	for name, entries := range map[string][]byte{
		"empty": nil, "cut": r.Entries[:len(r.Entries)-1], "a length without an end": {0x80}, "no message": {2, 0xff, 0xff},
		"too many": []byte(strings.Repeat("\x00", maxTimeline+1)),
	} {
		if validTimeline(&gwv1.TimelineRecord{EdgeId: "e", Entries: entries}) == "" {
			t.Errorf("%s: taken", name)
		}
	}
}
