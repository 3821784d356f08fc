package rpc

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
)

// cluster returns a client of ClusterService at a hub's admin address.
func (h *testHub) cluster(token string) gwv1connect.ClusterServiceClient {
	return gwv1connect.NewClusterServiceClient(h.web(), h.admin, bearer(token))
}

func refused(t testing.TB, err error, code connect.Code, reason, message string) {
	t.Helper()
	(&harness{t: t}).refused(err, code, reason, message)
}

func TestJoinRefusals(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	id := strings.Repeat("a", 32)
	at := func(h *testHub) gwv1connect.HubServiceClient {
		return gwv1connect.NewHubServiceClient(h.stranger(), h.url())
	}
	token := leader.hubToken(1)
	first := joinRequest(t, token, id)
	if _, err := at(follower).Join(t.Context(), first); err != nil { // a follower passes it on
		t.Fatal(err)
	}
	if _, err := at(leader).Join(t.Context(), first); err != nil {
		t.Errorf("a repeated call was refused: %v", err)
	}
	_, err := at(leader).Join(t.Context(), joinRequest(t, token, strings.Repeat("b", 32)))
	refused(t, err, connect.CodeFailedPrecondition, ReasonTokenUsedUp, "1 of 1")

	made, err := leader.hub.Access.CreateJoinToken(leader.asAdmin(), &gwv1.CreateJoinTokenRequest{})
	must(t, err)
	edgeToken, err := identity.ParseJoinToken(made.Credential)
	must(t, err)
	_, err = at(leader).Join(t.Context(), joinRequest(t, edgeToken, id))
	refused(t, err, connect.CodePermissionDenied, ReasonForbidden, "role edge")

	hubToken := leader.hubToken(5)
	_, err = gwv1connect.NewEdgeServiceClient(leader.stranger(), leader.url()).Enroll(t.Context(), &gwv1.EnrollRequest{
		JoinTokenId: hubToken.ID, JoinTokenSecret: hubToken.Secret, EdgeId: "e1", Csr: first.Csr})
	refused(t, err, connect.CodePermissionDenied, ReasonForbidden, "role hub")

	old := joinRequest(t, hubToken, id)
	old.FeatureLevel = 0
	_, err = at(leader).Join(t.Context(), old)
	refused(t, err, connect.CodeFailedPrecondition, ReasonTooOld, "install a newer one")

	_, err = leader.store.Propose(t.Context(), &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: id}}})
	must(t, err)
	_, err = at(leader).Join(t.Context(), joinRequest(t, hubToken, id))
	refused(t, err, connect.CodePermissionDenied, ReasonRemoved, id)

	wrong := joinRequest(t, hubToken, id)
	wrong.JoinTokenSecret = bytes.Repeat([]byte{1}, 32)
	for range maxTries {
		_, err = at(leader).Join(t.Context(), wrong)
		if err == nil {
			t.Fatal("a wrong secret was taken")
		}
	}
	_, err = at(leader).Join(t.Context(), wrong)
	refused(t, err, connect.CodeResourceExhausted, ReasonTooManyTries, "try again in")
}

func TestOnlyAnAdminOfEverythingLetsHubsIn(t *testing.T) {
	h := foundHub(t)
	ctx := WithPrincipal(t.Context(), Principal{User: "x", Role: RoleAdmin, Namespaces: []string{"default"}})
	_, err := h.hub.Access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{Role: "hub"})
	refused(t, err, connect.CodePermissionDenied, ReasonForbidden, "every namespace")
	for _, call := range []func() error{
		func() error { _, err := h.hub.Cluster.RemoveHub(ctx, &gwv1.RemoveHubRequest{Id: "x"}); return err },
		func() error {
			_, err := h.hub.Cluster.TransferLeadership(ctx, &gwv1.TransferLeadershipRequest{})
			return err
		},
	} {
		refused(t, call(), connect.CodePermissionDenied, ReasonForbidden, "every namespace")
	}
	viewer := h.user("vic", RoleViewer)
	stream, err := h.cluster(viewer).Backup(t.Context(), &gwv1.BackupRequest{})
	must(t, err)
	if stream.Receive() {
		t.Error("a viewer got a backup")
	}
	refused(t, stream.Err(), connect.CodePermissionDenied, ReasonForbidden, "needs admin")
	_, err = h.restore(viewer, []byte("x"), false)
	refused(t, err, connect.CodePermissionDenied, ReasonForbidden, "needs admin")
	if _, err := h.cluster(viewer).GetClusterStatus(t.Context(), &gwv1.GetClusterStatusRequest{}); err != nil {
		t.Errorf("a viewer may see the status: %v", err)
	}
}

func TestAddHubWantsProof(t *testing.T) {
	hubs := newHubs(t, 1)
	leader := hubs[0]
	joiner := leader.enrol(leader.hubToken(1))
	add := func(h *testHub, address string) error {
		_, err := h.toHub(leader).AddHub(t.Context(), &gwv1.AddHubRequest{Address: address, Version: "test"})
		return err
	}
	refused(t, add(joiner, leader.port.address()), connect.CodeFailedPrecondition, ReasonUnreachable, "answers hub "+leader.id)
	refused(t, add(joiner, "127.0.0.1:1"), connect.CodeFailedPrecondition, ReasonUnreachable, "does not reach")
	refused(t, add(joiner, "nonsense"), connect.CodeInvalidArgument, ReasonInvalid, "HOST:PORT")
	_, err := gwv1connect.NewHubServiceClient(leader.stranger(), leader.url()).AddHub(t.Context(), &gwv1.AddHubRequest{Address: joiner.port.address()})
	refused(t, err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "join first")

	unknown, err := leader.ca.IssueHub(strings.Repeat("c", 32), time.Now(), time.Hour)
	must(t, err)
	fake := &testHub{t: t, ca: leader.ca}
	fake.certificate.Store(&unknown)
	fake.peers = fake.transport("h2")
	defer fake.peers.CloseIdleConnections()
	refused(t, add(fake, joiner.port.address()), connect.CodePermissionDenied, ReasonForbidden, "has not joined")

	members, err := leader.store.Members()
	must(t, err)
	if len(members) != 1 {
		t.Errorf("members: %v", members)
	}
	must(t, add(joiner, joiner.port.address()))
	must(t, add(joiner, joiner.port.address())) // again changes nothing
}

func TestClusterStatus(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleViewer)
	for i, h := range hubs {
		var s *gwv1.GetClusterStatusResponse
		eventually(t, "the status is that of three sound hubs", func() (ok bool) {
			var err error
			s, err = h.cluster(token).GetClusterStatus(t.Context(), &gwv1.GetClusterStatusRequest{})
			must(t, err)
			return s.FailureTolerance == 1 && len(s.Alarms) == 0
		})
		if s.LeaderId != hubs[0].id || s.ClusterId != h.ca.ClusterID() || s.Epoch != 1 || s.Term == 0 || s.CommitIndex == 0 || s.AnsweredBy != hubs[0].id {
			t.Errorf("hub %d: %v", i, s)
		}
		for _, x := range s.Hubs {
			want := gwv1.HubRole_HUB_ROLE_FOLLOWER
			if x.Id == s.LeaderId {
				want = gwv1.HubRole_HUB_ROLE_LEADER
			}
			if x.Role != want || !x.Voter || x.Version != "test" || x.Address == "" || x.AppliedIndex == 0 || x.LastContact == nil || x.DiskFreeBytes == 0 {
				t.Errorf("hub %d shows %v", i, x)
			}
		}
	}
	hubs[2].kill()
	s, err := hubs[1].cluster(token).GetClusterStatus(t.Context(), &gwv1.GetClusterStatusRequest{})
	must(t, err)
	lost := s.Hubs[slices.IndexFunc(s.Hubs, func(x *gwv1.HubStatus) bool { return x.Id == hubs[2].id })]
	if lost.Role != gwv1.HubRole_HUB_ROLE_UNREACHABLE || s.FailureTolerance != 0 || len(s.Alarms) != 2 ||
		!strings.Contains(s.Alarms[0], "gw cluster remove "+hubs[2].id) || !strings.Contains(s.Alarms[1], "no voter may fail") {
		t.Errorf("after a death: %v", s)
	}
}

func TestRemoveHub(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, gone := hubs[0], hubs[2]
	token := leader.user("ann", RoleAdmin)
	c := hubs[1].cluster(token)
	_, err := c.RemoveHub(t.Context(), &gwv1.RemoveHubRequest{Id: "nobody"})
	refused(t, err, connect.CodeNotFound, ReasonNotFound, "nobody")
	_, err = c.RemoveHub(t.Context(), &gwv1.RemoveHubRequest{Id: gone.id})
	must(t, err)
	members, err := leader.store.Members()
	must(t, err)
	if slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.ID == gone.id }) {
		t.Errorf("members: %v", members)
	}
	_, err = gone.toHub(hubs[1]).Describe(t.Context(), &gwv1.DescribeRequest{})
	refused(t, err, connect.CodePermissionDenied, ReasonRemoved, gone.id)
	_, err = gone.toHub(leader).AddHub(t.Context(), &gwv1.AddHubRequest{Address: gone.port.address(), Version: "test"})
	refused(t, err, connect.CodePermissionDenied, ReasonRemoved, gone.id)
	_, err = c.RemoveHub(t.Context(), &gwv1.RemoveHubRequest{Id: gone.id}) // again is no harm
	must(t, err)
}

func TestALeaderThatIsRemovedHandsOver(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	eventually(t, "the token is everywhere", func() bool { _, err := hubs[1].hub.Authenticate(t.Context(), token); return err == nil })
	_, err := hubs[0].cluster(token).RemoveHub(t.Context(), &gwv1.RemoveHubRequest{Id: hubs[0].id})
	must(t, err)
	rest := byRole(t, hubs[1:])
	members, err := rest[0].store.Members()
	must(t, err)
	if len(members) != 2 || slices.ContainsFunc(members, func(m raftstore.Member) bool { return m.ID == hubs[0].id }) {
		t.Errorf("members: %v", members)
	}
}

func TestTheLastVoterIsNotRemoved(t *testing.T) {
	h := foundHub(t)
	token := h.user("ann", RoleAdmin)
	_, err := h.cluster(token).RemoveHub(t.Context(), &gwv1.RemoveHubRequest{Id: h.id})
	refused(t, err, connect.CodeFailedPrecondition, ReasonPrecondition, "only voter")
}

func TestTransferLeadership(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	_, err := hubs[1].cluster(token).TransferLeadership(t.Context(), &gwv1.TransferLeadershipRequest{To: "nobody"})
	refused(t, err, connect.CodeFailedPrecondition, ReasonPrecondition, "nobody")
	a, err := hubs[1].cluster(token).TransferLeadership(t.Context(), &gwv1.TransferLeadershipRequest{To: hubs[2].id})
	must(t, err)
	if a.LeaderId != hubs[2].id {
		t.Errorf("hub %s leads", a.LeaderId)
	}
	eventually(t, "the hub leads", hubs[2].store.Leading)
}

// backup returns a whole backup, taken at a hub.
func (h *testHub) backup(token string, stale bool) []byte {
	h.t.Helper()
	stream, err := h.cluster(token).Backup(h.t.Context(), &gwv1.BackupRequest{Stale: stale})
	must(h.t, err)
	defer stream.Close()
	var b bytes.Buffer
	for stream.Receive() {
		b.Write(stream.Msg().Chunk)
	}
	must(h.t, stream.Err())
	return b.Bytes()
}

// restore sends a backup to a hub in parts.
func (h *testHub) restore(token string, backup []byte, adopt bool) (*gwv1.RestoreResponse, error) {
	stream, err := h.cluster(token).Restore(h.t.Context())
	must(h.t, err)
	for part := range slices.Chunk(backup, 1000) {
		if stream.Send(&gwv1.RestoreRequest{Chunk: part, Adopt: adopt}) != nil {
			break // the answer says why
		}
	}
	return stream.CloseAndReceive()
}

func TestBackupAndRestore(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	hubs[0].apply("kept")
	backup := hubs[1].backup(token, false) // passed on
	st, err := raftstore.VerifyBackup(bytes.NewReader(backup))
	must(t, err)
	if _, ok := st.Resource("API", "default", "kept"); !ok {
		t.Error("the backup lacks what was saved before it")
	}
	hubs[0].apply("later")
	a, err := hubs[2].restore(token, backup, false)
	must(t, err)
	if a.Epoch != 2 || a.Index <= st.Index() {
		t.Errorf("got %v", a)
	}
	for _, h := range hubs {
		eventually(t, "every hub has the restored state", func() bool {
			return h.store.State().Cluster().Epoch == 2 && h.has("kept") && !h.has("later")
		})
	}
	if !hubs[2].has("kept") {
		t.Error("the hub that passed it on doesn't have it")
	}
	hubs[0].apply("after")
}

func TestAfterARestoreAPreviewHasWhatIsReleasedAgain(t *testing.T) {
	hubs := newHubs(t, 3)
	h := hubs[0]
	token := h.user("ann", RoleAdmin)
	h.apply("kept")
	_, err := h.hub.Releases.Push(h.asAdmin(), &gwv1.PushRequest{})
	must(t, err)
	preview := func() *gwv1.PreviewPushResponse {
		p, err := h.hub.Releases.PreviewPush(h.asAdmin(), &gwv1.PreviewPushRequest{})
		must(t, err)
		return p
	}
	before := preview()
	if n := before.Namespaces[0]; len(n.Changes) != 0 {
		t.Errorf("before: %v", n.Changes)
	}
	_, err = h.restore(token, h.backup(token, false), false)
	must(t, err)
	compiled := false
	compile := func(context.Context) { compiled = true }
	h.compile.Store(&compile)
	after := preview()
	if c := after.Namespaces[0].Changes; len(c) != 1 || c[0].Name != "kept" || c[0].Change != gwv1.Change_CHANGE_UNCHANGED || !compiled {
		t.Errorf("after: %v, compiled: %v", c, compiled)
	}
	_, err = h.hub.Releases.Push(h.asAdmin(), &gwv1.PushRequest{Base: before.Base})
	(&harness{t: t}).refused(err, connect.CodeFailedPrecondition, ReasonChanged, "")
	a, err := h.hub.Releases.Push(h.asAdmin(), &gwv1.PushRequest{Base: after.Base})
	must(t, err)
	if !a.Namespaces[0].Released {
		t.Errorf("got %v", a)
	}
	if n := preview().Namespaces[0]; len(n.Changes) != 0 {
		t.Errorf("in the end: %v", n.Changes)
	}
}

func TestAStaleBackupNeedsNoLeader(t *testing.T) {
	hubs := newHubs(t, 3)
	token := hubs[0].user("ann", RoleAdmin)
	last := hubs[2]
	eventually(t, "the token is everywhere", func() bool { _, err := last.hub.Authenticate(t.Context(), token); return err == nil })
	for _, h := range hubs[:2] {
		h.port.sever()
	}
	eventually(t, "the hub is alone", func() bool { id, _ := last.store.Leader(); return id == "" })
	if _, err := raftstore.VerifyBackup(bytes.NewReader(last.backup(token, true))); err != nil {
		t.Error(err)
	}
}

func TestRestoreChecksEverythingFirst(t *testing.T) {
	h := foundHub(t)
	token := h.user("ann", RoleAdmin)
	h.apply("a")
	backup := h.backup(token, false)
	index := h.store.State().Index()
	flipped := slices.Clone(backup)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{
		"nothing": nil, "truncated": backup[:len(backup)-1], "half": backup[:len(backup)/2], "flipped": flipped,
		"no backup": []byte("hello"), "followed": append(slices.Clone(backup), "more"...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := h.restore(token, b, false)
			refused(t, err, connect.CodeInvalidArgument, ReasonInvalid, "nothing was changed")
		})
	}
	foreign := foundHub(t)
	other := foreign.backup(foreign.user("bob", RoleAdmin), false)
	_, err := h.restore(token, other, false)
	refused(t, err, connect.CodeFailedPrecondition, ReasonPrecondition, "say adopt")

	// A cluster with another key can't open what is sealed in it.
	sealer, err := identity.NewSealer(bytes.Repeat([]byte{8}, identity.KeySize))
	must(t, err)
	h.hub.core.sealer = sealer
	_, err = h.restore(token, backup, false)
	refused(t, err, connect.CodeFailedPrecondition, ReasonPrecondition, "cluster.key")
	h.hub.core.sealer = h.sealer
	if now := h.store.State(); now.Index() != index || now.Cluster().Epoch != 1 {
		t.Errorf("refused restores changed the state: %d → %d", index, now.Index())
	}
	a, err := h.restore(token, other, true)
	must(t, err)
	if c := h.store.State().Cluster(); c.ClusterId != foreign.ca.ClusterID() || c.Epoch != a.Epoch || a.Epoch < 2 {
		t.Errorf("adopted: %v, %v", c.ClusterId, a)
	}
}

func TestChunksAreNoLargerThanAMessageTakes(t *testing.T) {
	var sizes []int
	c := &chunks{send: func(b []byte) error { sizes = append(sizes, len(b)); return nil }}
	for _, n := range []int{1, backupChunk, 3*backupChunk - 2, 5} {
		c.Write(make([]byte, n))
	}
	must(t, c.flush())
	must(t, c.flush())
	if !slices.Equal(sizes, []int{backupChunk, backupChunk, backupChunk, backupChunk, 4}) {
		t.Errorf("sent %v", sizes)
	}
}

func TestAVerdictStopsAHubThatDiffers(t *testing.T) {
	hubs := newHubs(t, 3)
	leader, follower := hubs[0], hubs[1]
	must(t, leader.hub.core.compare(leader.asAdmin()))
	index, digest := follower.store.Beacon()
	if index == 0 {
		t.Fatal("no beacon was seen")
	}
	say := func(index uint64, digest []byte) {
		_, err := leader.toHub(follower).Verdict(t.Context(), &gwv1.VerdictRequest{BeaconIndex: index, Digest: digest})
		must(t, err)
	}
	say(index, digest[:])
	say(index-1, make([]byte, 32)) // of a beacon it has forgotten
	if err := follower.store.Halted(); err != nil {
		t.Fatalf("it stopped though nothing was wrong: %v", err)
	}
	_, err := gwv1connect.NewHubServiceClient(follower.stranger(), follower.url()).Verdict(t.Context(), &gwv1.VerdictRequest{BeaconIndex: index, Digest: make([]byte, 32)})
	refused(t, err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "")
	say(index, make([]byte, 32))
	if follower.store.Halted() == nil {
		t.Error("it goes on with another state")
	}
}

// tamper changes the digests that some hubs tell another one.
func (h *testHub) tamper(liars ...*testHub) {
	f := func(a *http.Response) {
		if a.Request.URL.Path != gwv1connect.HubServiceDescribeProcedure {
			return
		}
		b, err := io.ReadAll(a.Body)
		must(h.t, err)
		d := &gwv1.DescribeResponse{}
		must(h.t, proto.Unmarshal(b, d))
		if slices.ContainsFunc(liars, func(l *testHub) bool { return l.id == d.Id }) && len(d.BeaconDigest) > 0 {
			d.BeaconDigest = bytes.Repeat([]byte{1}, 32)
		}
		b, err = proto.Marshal(d)
		must(h.t, err)
		a.Header.Del("Content-Length")
		a.ContentLength = -1
		a.Body = io.NopCloser(bytes.NewReader(b))
	}
	h.meddle.Store(&f)
}

func TestTheLeaderFindsTheOddOneOut(t *testing.T) {
	hubs := newHubs(t, 3)
	leader := hubs[0]
	leader.tamper(hubs[2])
	must(t, leader.hub.core.compare(leader.asAdmin()))
	if alarm := leader.hub.core.beacons.get(); !strings.Contains(alarm, hubs[2].id) {
		t.Errorf("alarm %q", alarm)
	}
	// In truth it has the right state, so the verdict does it no harm.
	if hubs[2].store.Halted() != nil || leader.store.Halted() != nil {
		t.Error("a hub stopped whose state is right")
	}
	leader.meddle.Store(nil)
	must(t, leader.hub.core.compare(leader.asAdmin()))
	if alarm := leader.hub.core.beacons.get(); alarm != "" {
		t.Errorf("alarm %q", alarm)
	}
	leader.tamper(hubs[1], hubs[2])
	must(t, leader.hub.core.compare(leader.asAdmin()))
	if leader.store.Halted() == nil {
		t.Error("a leader goes on whose state is not that of the others")
	}
}

func TestDisagree(t *testing.T) {
	a, b := []byte("a"), []byte("b")
	for _, c := range []struct {
		digests [][]byte
		want    bool
	}{
		{nil, false}, {[][]byte{a}, false}, {[][]byte{a, nil, a}, false}, {[][]byte{a, nil, b}, true}, {[][]byte{nil, nil}, false},
	} {
		var reports []report
		for _, d := range c.digests {
			reports = append(reports, report{raftstore.Member{Voter: true}, d})
		}
		if got := disagree(reports); got != c.want {
			t.Errorf("%q disagree: %v, want %v", c.digests, got, c.want)
		}
	}
}

func TestTheLeaderRecordsHubs(t *testing.T) {
	hubs := newHubs(t, 3)
	for _, h := range hubs {
		r, ok := hubs[0].store.State().Hub(h.id)
		if !ok || r.Address != h.port.address() || r.Version != "test" || r.JoinedAt == 0 || r.FeatureLevel != FeatureLevel {
			t.Errorf("recorded %v", r)
		}
	}
	index := hubs[0].store.State().Index()
	must(t, hubs[0].hub.core.recordHubs(hubs[0].asAdmin()))
	if now := hubs[0].store.State().Index(); now != index {
		t.Errorf("recording what is known moved the log from %d to %d", index, now)
	}
	hubs[1].hub.core.version = "newer"
	must(t, hubs[0].hub.core.recordHubs(hubs[0].asAdmin()))
	if r, _ := hubs[0].store.State().Hub(hubs[1].id); r.Version != "newer" {
		t.Errorf("recorded version %q", r.Version)
	}
}

// A removal that was cut short after its record is finished by the leader.
func TestARemovalIsFinished(t *testing.T) {
	hubs := newHubs(t, 3)
	_, err := hubs[0].store.Propose(t.Context(), &gwv1.Command{Body: &gwv1.Command_RemoveHub{RemoveHub: &gwv1.RemoveHubRecord{Id: hubs[2].id}}})
	must(t, err)
	eventually(t, "the voter answers, so that the others may be parted from it", func() bool { return hubs[0].store.Removable(hubs[2].id) == nil })
	must(t, hubs[0].hub.core.recordHubs(hubs[0].asAdmin()))
	members, err := hubs[0].store.Members()
	must(t, err)
	if len(members) != 2 {
		t.Errorf("members: %v", members)
	}
}
