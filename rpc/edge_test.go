package rpc

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/node/fleet"
	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// enrolment is a request with a fresh key.
func enrolment(t testing.TB, token identity.JoinToken, id string) *gwv1.EnrollRequest {
	t.Helper()
	key, err := identity.NewKey()
	must(t, err)
	csr, err := identity.NewCSR(key)
	must(t, err)
	return &gwv1.EnrollRequest{JoinTokenId: token.ID, JoinTokenSecret: token.Secret, EdgeId: id, Csr: csr}
}

func TestEnrollUsesUpTheJoinToken(t *testing.T) {
	h := newHarness(t)
	client := h.enroller()
	once := h.joinToken("eu", func(r *gwv1.CreateJoinTokenRequest) {
		r.Unlimited, r.MaxUses, r.Labels = false, 1, map[string]string{"site": "a"}
	})
	a, err := client.Enroll(t.Context(), enrolment(t, once, "e1"))
	must(t, err)
	certificate, err := x509.ParseCertificate(a.Certificate)
	must(t, err)
	who, err := identity.EdgeOf(certificate)
	must(t, err)
	if who != (identity.Edge{ClusterID: h.ca.ClusterID(), Namespace: "eu", ID: "e1"}) || a.Namespace != "eu" || a.HubUrls[0] != h.edge || !bytes.Equal(a.CaCertificate, h.ca.Certificate.Raw) {
		t.Errorf("got %v as %v", a, who)
	}
	if left := certificate.NotAfter.Sub(h.clock.now()); left != 24*time.Hour {
		t.Errorf("the certificate lives %v", left)
	}
	r, ok := h.store.State().Edge("e1")
	if !ok || r.Labels["site"] != "a" || r.CertificateSerial != certificate.SerialNumber.Text(16) || r.FirstSeen != h.clock.now().UnixNano() {
		t.Errorf("registered %v", r)
	}
	_, err = client.Enroll(t.Context(), enrolment(t, once, "e2"))
	h.refused(err, connect.CodeFailedPrecondition, ReasonTokenUsedUp, "1 of 1")
}

// What one edge says of itself doesn't keep others from being recorded.
func TestWhatCanNotBeRecordedOfAnEdgeIsLeftOut(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e2")
	_, err := e.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: e.session, LoadedChecksum: []byte{1}})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "")
	e.beat(t, h.target("default"))
	h.fleet.Beat(identity.Edge{ClusterID: h.ca.ClusterID(), Namespace: "default", ID: "e1"}, "10.0.0.1:1",
		&gwv1.HeartbeatRequest{SessionId: newID(), LoadedChecksum: []byte{1}}, fleet.Certificate{})
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	if r, _ := h.store.State().Edge("e2"); r.GetBuild() != "abc" {
		t.Errorf("recorded %v", r)
	}
	if _, ok := h.store.State().Edge("e1"); ok {
		t.Error("what is wrong was recorded")
	}
}

// Labels can be long, and a log entry has its limit.
func TestManyEdgesWithLongLabelsAreRecorded(t *testing.T) {
	h := newHarness(t)
	labels := map[string]string{}
	for i := range 32 {
		labels[fmt.Sprintf("label-%d", i)] = strings.Repeat("x", 250)
	}
	token := h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) { r.Labels = labels })
	for i := range 140 {
		e := h.enrollWith(token, fmt.Sprintf("e%d", i))
		_, err := h.hub.Edges.Heartbeat(h.calls(certificateOf(t, h, e)), &gwv1.HeartbeatRequest{SessionId: e.session, Build: "new"})
		must(t, err)
	}
	must(t, h.hub.core.recordEdges(h.as(RoleAdmin)))
	for r := range h.store.State().Edges() {
		if r.Build != "new" || len(r.Labels) != 32 {
			t.Fatalf("recorded %v", r)
		}
	}
}

// What the leader remembers of an edge is bounded by what it knows.
func TestFieldsNobodyKnowsAreForgotten(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	strange := protowire.AppendBytes(protowire.AppendTag(nil, 5000, protowire.BytesType), make([]byte, 100<<10))
	e.beat(t, nil, func(r *gwv1.HeartbeatRequest) {
		r.ProtoReflect().SetUnknown(strange)
		r.Vitals = &gwv1.Vitals{}
		r.ApplyError = &gwv1.ApplyError{}
		r.ApplyError.ProtoReflect().SetUnknown(strange)
	})
	if n := proto.Size(h.fleet.Live("e1").Heartbeat); n > 1000 {
		t.Errorf("%d bytes are remembered", n)
	}
	_, err := e.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: e.session, HealthReason: strings.Repeat("x", maxEdgeRequest)})
	if connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a heartbeat of more than %d bytes: %v", maxEdgeRequest, err)
	}
}

func TestStreamsOfOneEdgeAreBounded(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	for range 8 {
		e.watch(t, h.caughtUp()).next()
	}
	more := e.watch(t, h.caughtUp())
	if more.stream.Receive() {
		t.Fatal("a ninth stream is served")
	}
	if d := h.refused(more.stream.Err(), connect.CodeResourceExhausted, ReasonOverloaded, "too many streams"); d == nil {
		t.Error("no detail")
	}
	h.enroll("default", "e2").watch(t, h.caughtUp()).next()
}

func TestEnrollingAgainAfterALostAnswerUsesTheTokenOnce(t *testing.T) {
	h := newHarness(t)
	client := h.enroller()
	once := h.joinToken("eu", func(r *gwv1.CreateJoinTokenRequest) {
		r.Unlimited, r.MaxUses, r.Labels = false, 1, map[string]string{"site": "a"}
	})
	request := enrolment(t, once, "e1")
	for range 3 {
		h.clock.advance(time.Minute)
		a, err := client.Enroll(t.Context(), request)
		must(t, err)
		certificate, err := x509.ParseCertificate(a.Certificate)
		must(t, err)
		r, _ := h.store.State().Edge("e1")
		if r.CertificateSerial != certificate.SerialNumber.Text(16) || r.CertificateNotAfter != certificate.NotAfter.UnixNano() ||
			r.Labels["site"] != "a" || a.Namespace != "eu" {
			t.Errorf("handed out %x, recorded %v", certificate.SerialNumber, r)
		}
	}
	if token, _ := h.store.State().JoinToken(once.ID); token.Uses != 1 {
		t.Errorf("used %d times", token.Uses)
	}
	guessed := enrolment(t, once, "e1")
	guessed.Csr, guessed.JoinTokenSecret = request.Csr, bytes.Repeat([]byte{1}, 32)
	_, err := client.Enroll(t.Context(), guessed)
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "no such join token")
	// A token that is used up takes nobody to another namespace, whatever has enrolled before.
	used := h.joinToken("us", func(r *gwv1.CreateJoinTokenRequest) { r.Unlimited, r.MaxUses = false, 1 })
	_, err = client.Enroll(t.Context(), enrolment(t, used, "e2"))
	must(t, err)
	other := enrolment(t, used, "e1")
	other.Csr = request.Csr
	_, err = client.Enroll(t.Context(), other)
	h.refused(err, connect.CodeFailedPrecondition, ReasonTokenUsedUp, "1 of 1")
	// Nor does it bring back what was removed.
	_, err = h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: "e1"})
	must(t, err)
	_, err = client.Enroll(t.Context(), request)
	h.refused(err, connect.CodeFailedPrecondition, ReasonTokenUsedUp, "1 of 1")
}

func TestEnrollRefusals(t *testing.T) {
	h := newHarness(t)
	client := h.enroller()
	good := h.joinToken("default")
	guessed := good
	guessed.Secret = bytes.Repeat([]byte{1}, 32)
	_, wrongSecret := client.Enroll(t.Context(), enrolment(t, guessed, "e"))
	h.refused(wrongSecret, connect.CodePermissionDenied, ReasonForbidden, "no such join token")
	_, wrongID := client.Enroll(t.Context(), enrolment(t, identity.NewJoinToken(good.Pin), "e"))
	h.refused(wrongID, connect.CodePermissionDenied, ReasonForbidden, "no such join token")
	if wrongSecret.Error() != wrongID.Error() {
		t.Error("the answer tells which join tokens exist")
	}
	h.enroll("eu", "taken")
	_, err := client.Enroll(t.Context(), enrolment(t, good, "taken"))
	h.refused(err, connect.CodeAlreadyExists, ReasonAlreadyExists, "another namespace")
	bad := enrolment(t, good, "e")
	bad.Csr = []byte("nonsense")
	_, err = client.Enroll(t.Context(), bad)
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "csr")
	_, err = client.Enroll(t.Context(), enrolment(t, good, "Not A Name"))
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "edge_id")
	short := h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) { r.Ttl = durationpb.New(time.Minute) })
	h.clock.advance(time.Minute)
	_, err = client.Enroll(t.Context(), enrolment(t, short, "e"))
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "ended at")
}

func TestGuessingAtAJoinTokenIsThrottledAndEnrollingIsNot(t *testing.T) {
	h := newHarness(t)
	client, good := h.enroller(), h.joinToken("default")
	for i := range 2 * maxTries {
		_, err := client.Enroll(t.Context(), enrolment(t, good, fmt.Sprint("e", i)))
		must(t, err)
	}
	guessed := good
	guessed.Secret = bytes.Repeat([]byte{1}, 32)
	for range maxTries {
		_, err := client.Enroll(t.Context(), enrolment(t, guessed, "e"))
		h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "")
	}
	_, err := client.Enroll(t.Context(), enrolment(t, guessed, "e"))
	h.refused(err, connect.CodeResourceExhausted, ReasonTooManyTries, "try again in 6s")
}

func TestAnEndlessApplyErrorIsCut(t *testing.T) {
	h := newHarness(t)
	h.enroll("default", "e1").beat(t, nil, func(r *gwv1.HeartbeatRequest) {
		r.ApplyError = &gwv1.ApplyError{Name: strings.Repeat("n", 10_000), Message: strings.Repeat("ü", 10_000)}
	})
	g, err := h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: "e1"})
	must(t, err)
	if e := g.Edge.ApplyError; len(e.Name) > 300 || len(e.Message) > 4200 || !utf8.ValidString(e.Message) {
		t.Errorf("kept %d and %d bytes", len(e.Name), len(e.Message))
	}
}

func TestEveryCallButEnrollNeedsACertificate(t *testing.T) {
	h := newHarness(t)
	client := h.enroller()
	session := newID() + newID()
	for name, call := range map[string]func() error{
		"renew": func() error {
			_, err := client.RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: []byte{1}})
			return err
		},
		"heartbeat": func() error {
			_, err := client.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: session})
			return err
		},
		"watch": func() error {
			s, err := client.Watch(t.Context(), &gwv1.WatchRequest{SessionId: session})
			must(t, err)
			defer s.Close()
			s.Receive()
			return s.Err()
		},
		"fetch": func() error {
			s, err := client.FetchRelease(t.Context(), &gwv1.FetchReleaseRequest{})
			must(t, err)
			defer s.Close()
			s.Receive()
			return s.Err()
		},
		"secrets": func() error {
			_, err := client.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{})
			return err
		},
		"validate": func() error {
			_, err := client.ValidateToken(t.Context(), &gwv1.ValidateTokenRequest{TokenHash: make([]byte, 32)})
			return err
		},
		"goodbye": func() error {
			_, err := client.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: session})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h.refused(call(), connect.CodeUnauthenticated, ReasonCertificateNeeded, "")
		})
	}
}

func TestACertificateThatTheClusterDidNotIssueMakesNoEdge(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	other, err := identity.NewCA(h.ca.ClusterID(), h.clock.now())
	must(t, err)
	foreign, err := other.SignEdge(enrolment(t, identity.JoinToken{}, "x").Csr, e.Edge, h.clock.now(), time.Hour)
	must(t, err)
	for c, want := range map[*x509.Certificate]bool{foreign: false, certificateOf(t, h, e): true} {
		for range 2 {
			r := httptest.NewRequest("POST", "/", nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
			if _, found := h.hub.core.withCaller(r).Context().Value(callerKey{}).(caller); found != want {
				t.Errorf("believed: %v, want %v", found, want)
			}
		}
	}
}

// reconnected is an edge with its old certificate and a new connection.
func (h *harness) reconnected(e *testEdge) gwv1connect.EdgeServiceClient {
	return gwv1connect.NewEdgeServiceClient(
		h.https(identity.EdgeTLS(h.ca.Certificate, h.ca.ClusterID(), func() *tls.Certificate { return e.shows }), nil), h.edge)
}

func TestAnEndedCertificateIsRenewedOverTLSAndDoesNothingElse(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.clock.advance(CertificateTTL + 24*time.Hour)
	client := h.reconnected(e)
	_, err := client.Heartbeat(t.Context(), &gwv1.HeartbeatRequest{SessionId: e.session})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	_, err = client.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	_, err = client.ValidateToken(t.Context(), &gwv1.ValidateTokenRequest{TokenHash: make([]byte, 32)})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	_, err = client.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: e.session})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	w, err := client.Watch(t.Context(), &gwv1.WatchRequest{SessionId: e.session})
	must(t, err)
	defer w.Close()
	w.Receive()
	h.refused(w.Err(), connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	f, err := client.FetchRelease(t.Context(), &gwv1.FetchReleaseRequest{})
	must(t, err)
	defer f.Close()
	f.Receive()
	h.refused(f.Err(), connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	a, err := client.RenewCertificate(t.Context(), &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr})
	must(t, err)
	fresh, err := x509.ParseCertificate(a.Certificate)
	must(t, err)
	if who, err := identity.EdgeOf(fresh); err != nil || who != e.Edge {
		t.Errorf("renewed as %v, %v", who, err)
	}
	h.clock.advance(90 * 24 * time.Hour)
	if err := h.handshake(e); err == nil || !strings.Contains(err.Error(), "remote error: tls:") {
		t.Errorf("91 days after its end: %v, want a refused handshake", err)
	}
}

// handshake returns what an edge hears when it connects and sends nothing: bytes on their way could make the server's
// end of the connection overtake its alert.
func (h *harness) handshake(e *testEdge) error {
	c := identity.EdgeTLS(h.ca.Certificate, h.ca.ClusterID(), func() *tls.Certificate { return e.shows })
	c.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(h.edge, "https://"), c)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1)) // with TLS 1.3 the server looks at the certificate after the client is done
	return err
}

// certificateOf returns a certificate of an edge, made for the test.
func certificateOf(t testing.TB, h *harness, e *testEdge) *x509.Certificate {
	t.Helper()
	key, err := identity.NewKey()
	must(t, err)
	csr, err := identity.NewCSR(key)
	must(t, err)
	c, err := h.ca.SignEdgeIn(csr, e.Edge, h.store.State().Stamp(), h.clock.now(), time.Hour)
	must(t, err)
	return c
}

// calls makes an edge's calls in-process, as a certificate's owner.
func (h *harness) calls(c *x509.Certificate) context.Context {
	h.t.Helper()
	who, err := identity.EdgeOf(c)
	must(h.t, err)
	return context.WithValue(h.t.Context(), callerKey{}, caller{Edge: who, serial: c.SerialNumber.Text(16), lineage: identity.LineageOf(c), notAfter: c.NotAfter, address: "10.0.0.1:1"})
}

func TestACertificateThatEndedOnlyRenewsItself(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	ctx := h.calls(certificateOf(t, h, e))
	r := &gwv1.RenewCertificateRequest{Csr: enrolment(t, identity.JoinToken{}, "x").Csr}
	h.clock.advance(time.Hour + time.Second)
	_, err := h.hub.Edges.Heartbeat(ctx, &gwv1.HeartbeatRequest{SessionId: e.session})
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "renew it")
	a, err := h.hub.Edges.RenewCertificate(ctx, r)
	must(t, err)
	fresh, err := x509.ParseCertificate(a.Certificate)
	must(t, err)
	if who, err := identity.EdgeOf(fresh); err != nil || who != e.Edge {
		t.Errorf("renewed as %v, %v", who, err)
	}
	h.clock.advance(91 * 24 * time.Hour)
	_, err = h.hub.Edges.RenewCertificate(ctx, r)
	h.refused(err, connect.CodeUnauthenticated, ReasonCertificateNeeded, "enrol again")
}

func TestACertificateOfAnotherClusterIsRefused(t *testing.T) {
	h := newHarness(t)
	other, err := identity.NewCA("other", h.clock.now())
	must(t, err)
	c, err := other.SignEdge(enrolment(t, identity.JoinToken{}, "x").Csr, identity.Edge{ClusterID: "other", Namespace: "default", ID: "e"}, h.clock.now(), time.Hour)
	must(t, err)
	_, err = h.hub.Edges.FetchSecrets(h.calls(c), &gwv1.FetchSecretsRequest{})
	h.refused(err, connect.CodePermissionDenied, ReasonForbidden, "another cluster")
}

func TestHeartbeatTellsTheTargetAndIsRecorded(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	a := e.beat(t, nil)
	if a.Interval.AsDuration() != 30*time.Second || a.HubUrls[0] != h.edge || a.Target.Number != 0 || !bytes.Equal(a.Target.Checksum, resource.EmptyChecksum[:]) {
		t.Errorf("got %v", a)
	}
	h.apply(api("", "a", "/a"))
	number := h.push().Number
	if a = e.beat(t, h.target("default"), func(r *gwv1.HeartbeatRequest) { r.Version, r.Build = "2.0", "def" }); a.Target.Number != number {
		t.Errorf("target %v, want %d", a.Target, number)
	}
	h.tick(dutyInterval)
	h.tick(dutyInterval) // the first has been dealt with when the second is taken
	r, _ := h.store.State().Edge("e1")
	if r.Version != "2.0" || r.Build != "def" || r.LoadedRelease != number || len(r.LoadedChecksum) != 32 {
		t.Errorf("recorded %v", r)
	}
	index := h.store.State().Index()
	e.beat(t, h.target("default"), func(r *gwv1.HeartbeatRequest) { r.Version, r.Build = "2.0", "def" })
	h.tick(dutyInterval)
	h.tick(dutyInterval)
	if h.store.State().Index() != index {
		t.Error("a heartbeat without news went through the log")
	}
}

func TestARemovedEdgeThatRunsRegistersAgain(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	e.beat(t, nil)
	w := e.watch(t, &gwv1.WatchRequest{})
	w.next()
	w.next() // reset and tick
	_, err := h.hub.Fleet.RemoveEdge(h.as(RoleAdmin), &gwv1.RemoveEdgeRequest{Id: "e1"})
	must(t, err)
	if w.next().GetRemoved() == nil {
		t.Error("the edge was not told")
	}
	if w.stream.Receive() {
		t.Error("the stream goes on")
	}
	if _, ok := h.store.State().Edge("e1"); ok {
		t.Fatal("the entry is still there")
	}
	_, err = h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: "e1"})
	h.refused(err, connect.CodeNotFound, ReasonNotFound, "e1")
	e.beat(t, nil)
	h.tick(dutyInterval)
	h.tick(dutyInterval)
	if r, ok := h.store.State().Edge("e1"); !ok || r.Namespace != "default" || r.FirstSeen == 0 {
		t.Errorf("registered again: %v, %v", r, ok)
	}
}

func TestEphemeralEdgesAwayForADayAreForgotten(t *testing.T) {
	h := newHarness(t)
	ephemeral := h.joinToken("default", func(r *gwv1.CreateJoinTokenRequest) { r.Ephemeral = true })
	h.enrollWith(ephemeral, "brief").beat(t, nil)
	h.enroll("default", "lasting").beat(t, nil)
	there := func(id string) bool { _, ok := h.store.State().Edge(id); return ok }
	h.clock.advance(ephemeralAway - time.Second)
	h.tick(dutyInterval)
	h.tick(dutyInterval)
	if !there("brief") {
		t.Fatal("forgotten too early")
	}
	h.clock.advance(purgeEvery)
	h.tick(dutyInterval)
	h.tick(dutyInterval)
	if there("brief") || !there("lasting") || h.fleet.Live("brief") != nil {
		t.Errorf("brief %v, lasting %v", there("brief"), there("lasting"))
	}
}

func TestValidateTokenAnswersForTheEdgesOwnNamespaceOnly(t *testing.T) {
	h := newHarness(t)
	eu := h.enroll("eu", "e1")
	validate := func(credential string) *gwv1.ValidateTokenResponse {
		hash := identity.HashCredential(credential)
		a, err := eu.ValidateToken(t.Context(), &gwv1.ValidateTokenRequest{TokenHash: hash[:]})
		must(t, err)
		if a.AccessVersion != h.store.State().Cluster().AccessVersion {
			t.Errorf("access version %d, want %d", a.AccessVersion, h.store.State().Cluster().AccessVersion)
		}
		return a
	}
	app, own := h.app("eu", "web")
	_, everywhere := h.app("global", "all")
	_, foreign := h.app("us", "web")
	if a := validate(own.Credential); !a.Valid || a.AppId != app.Id || a.App != "web" || a.TokenId != own.Token.Id || a.Targets[0] != "*" || a.ExpiresAt != nil {
		t.Errorf("own: %v", a)
	}
	if !validate(everywhere.Credential).Valid {
		t.Error("a token of a global app is unknown")
	}
	unknown := validate(identity.NewCredential("gw_"))
	if a := validate(foreign.Credential); a.Valid || a.String() != unknown.String() {
		t.Errorf("foreign: %v, want the same as for no such token, %v", a, unknown)
	}
	short, err := h.hub.Access.CreateToken(h.as(RoleAdmin), &gwv1.CreateTokenRequest{Namespace: "eu", App: "web", Ttl: durationpb.New(time.Minute)})
	must(t, err)
	if a := validate(short.Credential); !a.Valid || a.ExpiresAt == nil {
		t.Errorf("short: %v", a)
	}
	h.clock.advance(time.Minute)
	if validate(short.Credential).Valid {
		t.Error("valid after its end")
	}
	_, err = h.hub.Access.RevokeToken(h.as(RoleAdmin), &gwv1.RevokeTokenRequest{Token: own.Token.Id})
	must(t, err)
	if validate(own.Credential).Valid {
		t.Error("valid after its revocation")
	}
}

func TestFetchSecretsGivesThoseTheReleaseNames(t *testing.T) {
	h := newHarness(t)
	eu, us := h.enroll("eu", "eu1"), h.enroll("us", "us1")
	put := func(namespace, name, value string) {
		_, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: namespace, Name: name, Value: value})
		must(t, err)
	}
	put("global", "shared", "from global")
	put("eu", "shared", "from eu")
	put("eu", "unused", "never sent")
	put("us", "own", "us only")
	h.apply(llm("global", "l", "shared"), llm("us", "m", "own"))
	fetch := func(e *testEdge) map[string]string {
		a, err := e.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{})
		must(t, err)
		got := map[string]string{}
		for _, s := range a.Secrets {
			got[s.Name] = string(s.Value)
		}
		return got
	}
	if got := fetch(eu); len(got) != 0 {
		t.Errorf("before a push: %v", got)
	}
	h.push()
	if got := fetch(eu); len(got) != 1 || got["shared"] != "from eu" {
		t.Errorf("eu: %v", got)
	}
	if got := fetch(us); len(got) != 2 || got["shared"] != "from global" || got["own"] != "us only" {
		t.Errorf("us: %v", got)
	}
}

func TestFetchSecretsCoversTheReleaseThatAnEdgeStillServes(t *testing.T) {
	h := newHarness(t)
	eu := h.enroll("eu", "eu1")
	for _, x := range []struct{ namespace, name string }{{"eu", "old"}, {"eu", "new"}, {"eu", "never"}, {"us", "theirs"}} {
		_, err := h.hub.Access.PutSecret(h.as(RoleAdmin), &gwv1.PutSecretRequest{Namespace: x.namespace, Name: x.name, Value: "v"})
		must(t, err)
	}
	h.apply(llm("eu", "l", "old"))
	h.push("eu")
	first := h.target("eu")
	h.apply(llm("us", "l", "theirs"))
	h.push("us")
	theirs := h.target("us")
	h.apply(llm("eu", "l", "new"))
	h.push("eu")
	for name, x := range map[string]struct {
		epoch, release uint64
		want           string
	}{
		"the one before":                {first.Epoch, first.Number, "new old"},
		"the target":                    {first.Epoch, h.target("eu").Number, "new"},
		"nothing":                       {0, 0, "new"},
		"one of another epoch":          {first.Epoch + 1, first.Number, "new"},
		"one of another namespace":      {theirs.Epoch, theirs.Number, "new"},
		"one that there has never been": {first.Epoch, 1 << 40, "new"},
	} {
		a, err := eu.FetchSecrets(t.Context(), &gwv1.FetchSecretsRequest{LoadedEpoch: x.epoch, LoadedRelease: x.release})
		must(t, err)
		var got []string
		for _, s := range a.Secrets {
			got = append(got, s.Name)
		}
		if strings.Join(got, " ") != x.want {
			t.Errorf("an edge that serves %s: got %v, want %s", name, got, x.want)
		}
	}
}

func TestTwoProcessesWithOneIDAreShownAsAConflict(t *testing.T) {
	h := newHarness(t)
	one := h.enroll("default", "e1")
	two := h.enroll("default", "e1")
	one.beat(t, nil)
	h.clock.advance(time.Second)
	two.beat(t, nil)
	h.clock.advance(time.Second)
	one.beat(t, nil)
	g, err := h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: "e1"})
	must(t, err)
	if g.Edge.SessionId != two.session || g.Edge.ConflictingSessionId != one.session {
		t.Errorf("shown: %v", g.Edge)
	}
}

func TestListEdgesFiltersSortsAndSums(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	h.push()
	a, b, c := h.enroll("default", "a"), h.enroll("default", "b"), h.enroll("eu", "c")
	a.watch(t, &gwv1.WatchRequest{}).next()
	a.beat(t, h.target("default"), func(r *gwv1.HeartbeatRequest) { r.Metadata = map[string]string{"zone": "Rack-7"} })
	b.beat(t, &gwv1.Target{Checksum: resource.EmptyChecksum[:]}, func(r *gwv1.HeartbeatRequest) { r.Version = "0.9" })
	c.beat(t, nil)
	_, err := c.Goodbye(t.Context(), &gwv1.GoodbyeRequest{SessionId: c.session})
	must(t, err)
	list := func(r *gwv1.ListEdgesRequest) (ids string, answer *gwv1.ListEdgesResponse) {
		answer, err := h.hub.Fleet.ListEdges(h.as(RoleViewer), r)
		must(t, err)
		for _, e := range answer.Edges {
			ids += e.Id
		}
		return ids, answer
	}
	for want, r := range map[string]*gwv1.ListEdgesRequest{
		"abc": {}, "cba": {Sort: "-id"}, "ab": {Namespace: "default"}, "a": {Query: "rack-7"}, "bca": {PageSize: 3, Sort: "version", Query: ""},
		"c": {Connection: gwv1.Connection_CONNECTION_DISCONNECTED}, "b": {Offset: 1, PageSize: 1},
	} {
		if want == "bca" {
			want = "bac" // 0.9, then 1.0 twice by ID
		}
		if got, _ := list(r); got != want {
			t.Errorf("%v: got %s, want %s", r, got, want)
		}
	}
	_, all := list(&gwv1.ListEdgesRequest{PageSize: 1})
	if s := all.Summary; all.Total != 3 || s.Edges != 3 || s.Connected != 2 || s.Disconnected != 1 || s.InSync != 1 || s.Pending != 1 || s.Unknown != 1 || s.NamespacesUnpushed != 0 || s.NewestPush == 0 || s.NewestPushAt == nil {
		t.Errorf("total %d, summary %v", all.Total, s)
	}
	_, err = h.hub.Fleet.ListEdges(h.as(RoleViewer), &gwv1.ListEdgesRequest{Sort: "colour"})
	h.refused(err, connect.CodeInvalidArgument, ReasonInvalid, "sort")
	h.apply(api("", "b", "/b"))
	n, err := h.hub.Fleet.ListNamespaces(h.as(RoleViewer), &gwv1.ListNamespacesRequest{})
	must(t, err)
	d := n.Namespaces[0]
	if len(n.Namespaces) != 2 || d.Name != "default" || d.Edges != 2 || d.Resources != 2 || d.ReleasedChecksum != hex.EncodeToString(h.target("default").Checksum) || d.ExpectedChecksum == d.ReleasedChecksum {
		t.Errorf("namespaces: %v", n.Namespaces)
	}
	g, err := h.hub.Fleet.GetEdge(h.as(RoleViewer), &gwv1.GetEdgeRequest{Id: "a"})
	must(t, err)
	if g.Edge.Sync != gwv1.Sync_SYNC_PENDING || g.Edge.SyncReason != "its namespace has unpushed changes" {
		t.Errorf("with unpushed changes: %v %q", g.Edge.Sync, g.Edge.SyncReason)
	}
}

var _ gwv1connect.EdgeServiceHandler = (*EdgeServer)(nil)
