package state

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

const hubID = "0123456789abcdef0123456789abcdef"

func hubToken(l *log, id string, uses uint32) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
		Id: id, Role: "hub", SecretHash: hashOf(id), ExpiresAt: l.at + int64(time.Hour), MaxUses: uses,
	}}}}
}

func enrollHub(token, id string) *gwv1.Command {
	return &gwv1.Command{Actor: "hub/" + id, Body: &gwv1.Command_EnrollHub{EnrollHub: &gwv1.EnrollHub{
		JoinTokenId: token, Hub: &gwv1.HubRecord{Id: id, Version: "1"},
	}}}
}

func putHub(id, address string) *gwv1.Command {
	return &gwv1.Command{Actor: "hub/" + id, Body: &gwv1.Command_PutHub{PutHub: &gwv1.PutHubRecord{
		Hub: &gwv1.HubRecord{Id: id, Address: address, Version: "1"},
	}}}
}

func removeHub(id string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: id}}}
}

func TestHubsEnrol(t *testing.T) {
	l := newLog(t)
	l.ok(hubToken(l, "j", 1))
	l.refuses(enrollHub("nobody", hubID), missingCode, "not_found")
	l.ok(enrollHub("j", hubID))
	if h, ok := l.Hub(hubID); !ok || h.JoinedAt != l.at || h.Version != "1" || h.Removed {
		t.Errorf("enrolled: %v, %v", h, ok)
	}
	if j, _ := l.JoinToken("j"); j.Uses != 1 {
		t.Errorf("the token was used %d times", j.Uses)
	}
	l.refuses(enrollHub("j", "another"), deniedCode, "token_used_up")
	late := enrollHub("k", "another")
	l.ok(hubToken(l, "k", 0))
	late.ProposedAt = l.at + int64(time.Hour)
	l.refuses(late, deniedCode, "token_expired")

	l.ok(putHub(hubID, "one:50051"))
	l.at++
	again := enrollHub("k", hubID) // its certificate was lost
	l.ok(again)
	if h, _ := l.Hub(hubID); h.Address != "one:50051" || h.JoinedAt != l.at-1 {
		t.Errorf("enrolled again: %v", h)
	}
	if got := len(slices.Collect(l.Hubs())); got != 1 {
		t.Errorf("%d hubs", got)
	}
	if got := l.Namespaces(); len(got) != 1 || got[0] != "default" {
		t.Errorf("a hub's join token made a namespace: %q", got)
	}
}

// A token admits to what it is for: an edge's token must never make a hub, which gets the cluster's key.
func TestJoinTokensAreForOneRole(t *testing.T) {
	l := newLog(t)
	l.ok(hubToken(l, "h", 0))
	l.ok(&gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: &gwv1.JoinTokenRecord{
		Id: "e", Role: "edge", Namespace: "default", SecretHash: hashOf("e"), ExpiresAt: l.at + 1,
	}}}})
	l.refuses(enrollHub("e", hubID), deniedCode, "forbidden")
	l.refuses(&gwv1.Command{Body: &gwv1.Command_EnrollEdge{EnrollEdge: &gwv1.EnrollEdge{
		JoinTokenId: "h", Edge: &gwv1.EdgeRecord{Id: "e1", Namespace: "default"},
	}}}, deniedCode, "forbidden")
	for name, j := range map[string]*gwv1.JoinTokenRecord{
		"namespace": {Namespace: "default"}, "labels": {Labels: map[string]string{"a": "b"}}, "ephemeral": {Ephemeral: true},
	} {
		j.Id, j.Role, j.SecretHash, j.ExpiresAt = "x", "hub", hashOf("x"), l.at+1
		r := l.refuses(&gwv1.Command{Body: &gwv1.Command_PutJoinToken{PutJoinToken: &gwv1.PutJoinTokenRecord{JoinToken: j}}}, invalidCode, "invalid")
		if !strings.Contains(r.Message, "role hub") {
			t.Errorf("%s: %s", name, r.Message)
		}
	}
}

func TestRemovedHubStaysRemoved(t *testing.T) {
	l := newLog(t)
	l.ok(hubToken(l, "j", 0))
	l.ok(enrollHub("j", hubID))
	l.ok(removeHub(hubID))
	l.ok(removeHub(hubID)) // again
	if h, ok := l.Hub(hubID); !ok || !h.Removed || h.Version != "1" {
		t.Errorf("removed: %v, %v", h, ok)
	}
	l.refuses(enrollHub("j", hubID), deniedCode, "removed")
	l.refuses(putHub(hubID, "one:1"), deniedCode, "removed")
	l.ok(removeHub("stranger"))
	l.refuses(enrollHub("j", "stranger"), deniedCode, "removed")
	back := putHub("two", "two:1")
	back.GetPutHub().Hub.Removed = true
	l.refuses(back, invalidCode, "invalid")
	l.refuses(removeHub(""), invalidCode, "invalid")
	l.refuses(putHub("two", strings.Repeat("x", 300)), invalidCode, "invalid")
	var actions []string
	for a := range l.Audit() {
		actions = append(actions, a.Action+" "+a.Object)
	}
	want := []string{"remove_hub hub/stranger", "remove_hub hub/" + hubID, "enroll_hub hub/" + hubID, "create_join_token join_token/j"}
	if !slices.Equal(actions, want) {
		t.Errorf("audit %q, want %q", actions, want)
	}
}

func TestBeaconChangesNothing(t *testing.T) {
	l := newLog(t)
	l.ok(putHub(hubID, "one:1"))
	before := l.State
	l.ok(&gwv1.Command{Actor: "hub/x", Body: &gwv1.Command_Beacon{Beacon: &gwv1.Beacon{}}})
	if !before.At(l.Index()).Equal(l.State) {
		t.Error("a beacon changed the state")
	}
	if l.State.Digest() == before.Digest() {
		t.Error("the digest does not say at which index")
	}
	if l.State.Digest() != reload(t, l.State).Digest() {
		t.Error("a restored state has another digest")
	}
}

func TestEpochOnlyRises(t *testing.T) {
	l := newLog(t)
	raise := func(least uint64) *gwv1.Command {
		return &gwv1.Command{Body: &gwv1.Command_RaiseEpoch{RaiseEpoch: &gwv1.RaiseEpoch{AtLeast: least}}}
	}
	l.refuses(raise(0), conditionRef, "no_cluster")
	l.ok(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c"}}})
	for _, c := range []struct{ least, want uint64 }{{0, 2}, {7, 7}, {3, 8}, {8, 9}} {
		l.ok(raise(c.least))
		if got := l.Cluster().Epoch; got != c.want {
			t.Errorf("raised to at least %d: %d, want %d", c.least, got, c.want)
		}
	}
	l.refuses(raise(math.MaxUint64), invalidCode, "invalid")
}

// founded is a log of a cluster with an ID.
func founded(t *testing.T, id string) *log {
	l := newLog(t)
	l.ok(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: id, CaCertificate: []byte("ca of " + id)}}})
	l.ok(&gwv1.Command{Body: &gwv1.Command_OpenTerm{OpenTerm: &gwv1.OpenTerm{Term: 3, NodeId: hubID}}})
	l.ok(putHub(hubID, "one:1"))
	return l
}

func TestRestoredStateKeepsWhatMustNotGoBack(t *testing.T) {
	l := founded(t, "c")
	l.ok(putApp(true, "default", "web", "app-1"))
	l.ok(putToken("t", "app-1"))
	l.ok(change1(edit("default", "orders", "then")))
	l.ok(pushOf(l.State, "default"))
	l.ok(putHub("early", "early:1"))
	l.ok(&gwv1.Command{Body: &gwv1.Command_StageBlobs{StageBlobs: &gwv1.StageBlobs{Stage: "s", Blobs: [][]byte{[]byte("x")}}}})
	backup := l.State

	l.at += int64(time.Hour)
	l.ok(change1(edit("default", "orders", "now")))
	l.ok(pushOf(l.State, "default"))
	l.ok(&gwv1.Command{Body: &gwv1.Command_RevokeToken{RevokeToken: &gwv1.RevokeTokenRecord{Id: "t"}}})
	l.ok(removeHub("early"))
	l.ok(putHub("late", "late:1"))
	l.ok(&gwv1.Command{Body: &gwv1.Command_OpenTerm{OpenTerm: &gwv1.OpenTerm{Term: 9, NodeId: "late"}}})
	current := l.State

	index := current.Index() + 100
	got, err := Restore(current, backup, Restoration{Index: index, At: l.at, Actor: "ann", ActorAddress: "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	c := got.Cluster()
	if got.Index() != index || c.Epoch != 2 || c.PushNumber != 2 || c.OpenTerm != 9 || c.OpenTermNode != "late" || c.Now != l.at {
		t.Errorf("index %d, cluster %v", got.Index(), c)
	}
	if r, _ := got.Resource("API", "default", "orders"); string(r.GetSpec()) != "then" {
		t.Errorf("the resource is %q", r.GetSpec())
	}
	if tk, _ := got.Token("t"); tk.GetRevoked() {
		t.Error("the backup's token is revoked")
	}
	for id, removed := range map[string]bool{hubID: false, "early": true, "late": false} {
		if h, ok := got.Hub(id); !ok || h.Removed != removed {
			t.Errorf("hub %s: %v, %v; want removed %v", id, h, ok, removed)
		}
	}
	for _, known := range []uint64{0, backup.Cluster().AccessVersion, current.Cluster().AccessVersion, index - 1} {
		if _, ok := got.AccessSince(known); ok {
			t.Errorf("an edge that knows access version %d is not told to ask anew", known)
		}
	}
	if changes, ok := got.AccessSince(index); !ok || len(changes) != 0 {
		t.Errorf("since the restore: %v, %v", changes, ok)
	}
	if got.totals.stagedBytes != 0 {
		t.Errorf("%d bytes are staged", got.totals.stagedBytes)
	}
	for a := range got.Audit() {
		if a.Action != "restore" || a.Actor != "ann" || a.ActorAddress != "10.0.0.1" || a.Index != index {
			t.Errorf("newest in the audit: %v", a)
		}
		break
	}
	checkState(t, got)
	if again := reload(t, got); !again.Equal(got) || again.totals != got.totals {
		t.Error("the restored state does not survive a snapshot")
	}
	if backup.Index() >= index || backup.Cluster().Epoch != 1 {
		t.Error("the backup was changed")
	}
}

func TestRestoreOfAnotherCluster(t *testing.T) {
	here, there := founded(t, "here"), founded(t, "there")
	there.ok(putHub("elsewhere", "x:1"))
	for _, adopt := range []bool{false, true} {
		got, err := Restore(here.State, there.State, Restoration{Index: 1000, Adopt: adopt, Actor: "ann"})
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]string{false: "here", true: "there"}[adopt]
		if c := got.Cluster(); c.ClusterId != want || string(c.CaCertificate) != "ca of "+want {
			t.Errorf("adopt %v: cluster %q with %q", adopt, c.ClusterId, c.CaCertificate)
		}
		if h, _ := got.Hub("elsewhere"); !h.GetRemoved() {
			t.Errorf("adopt %v: a hub of the other cluster counts as one of this", adopt)
		}
	}
	empty := New()
	got, err := Restore(empty, there.State, Restoration{Index: 1000, Actor: "ann"})
	if err != nil || got.Cluster().ClusterId != "there" {
		t.Errorf("into a cluster without an ID: %v, %v", got.Cluster(), err)
	}
	if _, err := Restore(here.State, there.State, Restoration{Index: 1000, Actor: strings.Repeat("x", 2000)}); err == nil {
		t.Error("an actor of any length was taken")
	}
}
