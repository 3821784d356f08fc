package identity

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func newCA(t *testing.T, cluster string) *CA {
	t.Helper()
	ca, err := NewCA(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// handshake runs both sides of a TLS handshake over a pipe.
func handshake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	s := tls.Server(a, server)
	done := make(chan error, 1)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte{1})
		}
		if err != nil {
			a.Close()
		}
		done <- err
	}()
	c := tls.Client(b, client)
	err := c.Handshake()
	if err == nil { // in TLS 1.3 a client learns only when reading that its certificate was refused
		_, err = c.Read(make([]byte, 1))
	}
	if err != nil {
		b.Close()
	}
	serverErr := <-done
	return s.ConnectionState(), errors.Join(err, serverErr)
}

func hubSide(t *testing.T, ca *CA) *tls.Config {
	t.Helper()
	cert, err := ca.IssueHub("hub-1", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return HubTLS(ca.Certificate, ca.ClusterID(), func() *tls.Certificate { return &cert })
}

func edgeSide(t *testing.T, ca *CA, e Edge) *tls.Config {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.SignEdge(csr, e, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	return EdgeTLS(ca.Certificate, ca.ClusterID(), func() *tls.Certificate { return cert })
}

func TestEdgeIsWhoItsCertificateNames(t *testing.T) {
	ca := newCA(t, "c1")
	want := Edge{ClusterID: "c1", Namespace: "team-a", ID: "edge-1"}
	state, err := handshake(t, hubSide(t, ca), edgeSide(t, ca, want))
	if err != nil {
		t.Fatal(err)
	}
	got, err := EdgeOf(state.PeerCertificates[0])
	if err != nil || got != want {
		t.Errorf("EdgeOf = %+v, %v, want %+v", got, err, want)
	}
}

func TestForeignCertificatesAreRefused(t *testing.T) {
	ours, theirs := newCA(t, "c1"), newCA(t, "c1")
	if _, err := handshake(t, hubSide(t, ours), edgeSide(t, theirs, Edge{"c1", "default", "e"})); err == nil {
		t.Error("an edge took a hub of another CA")
	}
	stranger := edgeSide(t, theirs, Edge{"c1", "default", "e"})
	stranger.RootCAs = poolOf(ours.Certificate)
	if _, err := handshake(t, hubSide(t, ours), stranger); err == nil {
		t.Error("a hub took an edge of another CA")
	}
}

// endedSide is an edge whose certificate ended some time ago.
func endedSide(t *testing.T, ca *CA, ago time.Duration) *tls.Config {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.SignEdge(csr, Edge{ca.ClusterID(), "default", "e"}, time.Now().Add(-ago-time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key}
	return EdgeTLS(ca.Certificate, ca.ClusterID(), func() *tls.Certificate { return cert })
}

func TestAnEdgeWhoseCertificateEndedIsHeardForNinetyDays(t *testing.T) {
	const day = 24 * time.Hour
	old := func(cluster string) *CA {
		ca, err := NewCA(cluster, time.Now().Add(-200*day))
		if err != nil {
			t.Fatal(err)
		}
		return ca
	}
	ca := old("c1")
	for _, ago := range []time.Duration{time.Minute, 89 * day} {
		if state, err := handshake(t, hubSide(t, ca), endedSide(t, ca, ago)); err != nil || len(state.PeerCertificates) == 0 {
			t.Errorf("ended %v ago: %v", ago, err)
		}
	}
	if _, err := handshake(t, hubSide(t, ca), endedSide(t, ca, 91*day)); err == nil {
		t.Error("a certificate that ended 91 days ago was taken")
	}
	foreign := endedSide(t, old("c1"), day)
	foreign.RootCAs = poolOf(ca.Certificate)
	if _, err := handshake(t, hubSide(t, ca), foreign); err == nil {
		t.Error("an ended certificate of another CA was taken")
	}
	hub, err := ca.IssueHub("hub-2", time.Now().Add(-2*time.Hour), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	ended := HubClientTLS(ca.Certificate, "c1", func() *tls.Certificate { return &hub }, "h2")
	if _, err := handshake(t, hubSide(t, ca), ended); err == nil {
		t.Error("a hub's certificate that ended was taken")
	}
}

func TestEnrolmentTrustsOnlyThePinnedCA(t *testing.T) {
	ca, other := newCA(t, "c1"), newCA(t, "c2")
	if _, err := handshake(t, hubSide(t, ca), EnrollTLS(PinOf(ca.Certificate))); err != nil {
		t.Errorf("the right pin: %v", err)
	}
	if _, err := handshake(t, hubSide(t, ca), EnrollTLS(PinOf(other.Certificate))); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("the wrong pin: %v, want ErrWrongCluster", err)
	}
	// Someone in between presents the right CA beside a leaf it did not sign.
	forged, err := other.IssueHub("hub-1", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	forged.Certificate[1] = ca.Certificate.Raw
	server := HubTLS(ca.Certificate, "c1", func() *tls.Certificate { return &forged })
	if _, err := handshake(t, server, EnrollTLS(PinOf(ca.Certificate))); err == nil {
		t.Error("a leaf of another CA was taken beside the pinned CA's certificate")
	}
}

func TestEdgeCertificateIsNoServer(t *testing.T) {
	ca := newCA(t, "c1")
	edge := edgeSide(t, ca, Edge{"c1", "default", "e"})
	cert, _ := edge.GetClientCertificate(nil)
	chain := append(cert.Certificate[:1:1], ca.Certificate.Raw)
	server := HubTLS(ca.Certificate, "c1", func() *tls.Certificate {
		return &tls.Certificate{Certificate: chain, PrivateKey: cert.PrivateKey}
	})
	if _, err := handshake(t, server, EnrollTLS(PinOf(ca.Certificate))); err == nil {
		t.Error("an edge's certificate was taken for a hub's")
	}
}

func TestRaftIsForHubsOfTheClusterOnly(t *testing.T) {
	ca := newCA(t, "c1")
	hub := func(ca *CA, id string) func() *tls.Certificate {
		cert, err := ca.IssueHub(id, time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return func() *tls.Certificate { return &cert }
	}
	server := RaftServerTLS(ca.Certificate, "c1", hub(ca, "hub-1"))
	state, err := handshake(t, server, HubClientTLS(ca.Certificate, "c1", hub(ca, "hub-2"), RaftALPN))
	if err != nil || state.NegotiatedProtocol != RaftALPN {
		t.Fatalf("two hubs: %q, %v", state.NegotiatedProtocol, err)
	}
	if cluster, id, err := HubOf(state.PeerCertificates[0]); err != nil || cluster != "c1" || id != "hub-2" {
		t.Errorf("HubOf = %q, %q, %v", cluster, id, err)
	}
	edge := edgeSide(t, ca, Edge{"c1", "default", "e"})
	edge.NextProtos = []string{RaftALPN}
	if _, err := handshake(t, server, edge); err == nil {
		t.Error("an edge speaks Raft")
	}
	nobody := EnrollTLS(PinOf(ca.Certificate))
	nobody.NextProtos = []string{RaftALPN}
	if _, err := handshake(t, server, nobody); err == nil {
		t.Error("a stranger speaks Raft")
	}
	if _, err := handshake(t, server, HubClientTLS(ca.Certificate, "c1", hub(newCA(t, "c1"), "hub-2"), RaftALPN)); err == nil {
		t.Error("a hub of another CA speaks Raft")
	}
}

func TestCAIsLoadedAgain(t *testing.T) {
	ca := newCA(t, "c1")
	key, err := ca.MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadCA(ca.Certificate.Raw, key)
	if err != nil || again.ClusterID() != "c1" {
		t.Fatalf("LoadCA: %v, %v", again, err)
	}
	otherKey, err := newCA(t, "c1").MarshalKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LoadCA(ca.Certificate.Raw, otherKey); err == nil {
		t.Error("a key of another CA was taken")
	}
}

func TestSignEdgeUsesOnlyTheKeyOfTheRequest(t *testing.T) {
	ca := newCA(t, "c1")
	if _, err := ca.SignEdge([]byte("no request"), Edge{"c1", "default", "e"}, time.Now(), time.Hour); err == nil {
		t.Error("garbage was signed")
	}
}

func TestCredentials(t *testing.T) {
	s := NewCredential(AppTokenPrefix)
	if len(s) != 3+49 || !CheckCredential(AppTokenPrefix, s) {
		t.Fatalf("%d characters, check %v", len(s), CheckCredential(AppTokenPrefix, s))
	}
	if CheckCredential(BearerPrefix, s) || CheckCredential(AppTokenPrefix, s[:len(s)-1]) || CheckCredential(AppTokenPrefix, s+"0") {
		t.Error("another prefix or length passes")
	}
	for i := len(AppTokenPrefix); i < len(s); i++ {
		wrong := []byte(s)
		wrong[i] = map[bool]byte{true: 'b', false: 'a'}[wrong[i] == 'a']
		if CheckCredential(AppTokenPrefix, string(wrong)) {
			t.Fatalf("a wrong character at %d passes", i)
		}
	}
	if n := testing.AllocsPerRun(100, func() { CheckCredential(AppTokenPrefix, s); HashCredential(s) }); n != 0 {
		t.Errorf("checking and hashing allocate %v times", n)
	}
	if h := Hint(s); !strings.HasPrefix(s, strings.TrimSuffix(h, "…")) || len(h) > 12 {
		t.Errorf("Hint = %q", h)
	}
}

func TestJoinTokens(t *testing.T) {
	want := NewJoinToken(Pin{1, 2, 3})
	got, err := ParseJoinToken(want.String() + "\n")
	if err != nil || got.Pin != want.Pin || got.ID != want.ID || !bytes.Equal(got.Secret, want.Secret) {
		t.Fatalf("ParseJoinToken = %v, %v", got, err)
	}
	if n := len(want.String()); n != 107 {
		t.Errorf("%d characters, but ErrJoinToken says 107", n)
	}
	for _, s := range []string{"", "gwj_", want.String()[:100], strings.Replace(want.String(), "gwj_", "gw_", 1)} {
		if _, err := ParseJoinToken(s); !errors.Is(err, ErrJoinToken) {
			t.Errorf("ParseJoinToken(%q) = %v, want ErrJoinToken", s, err)
		}
	}
}

func FuzzParseJoinToken(f *testing.F) {
	f.Add(NewJoinToken(Pin{9}).String())
	f.Add("gwj_AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		if token, err := ParseJoinToken(s); err == nil && token.String() != strings.TrimSpace(s) {
			t.Errorf("%q is read, but written as %q", s, token.String())
		}
	})
}

func TestSealedValuesOpenOnlyAsWhatTheyAre(t *testing.T) {
	s, err := NewSealer(bytes.Repeat([]byte{7}, KeySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := s.Seal([]byte("sk-1"), "default", "openai")
	if bytes.Contains(sealed, []byte("sk-1")) {
		t.Fatal("the plaintext shows")
	}
	if got, err := s.Open(sealed, "default", "openai"); err != nil || string(got) != "sk-1" {
		t.Errorf("Open = %q, %v", got, err)
	}
	sealed2 := bytes.Clone(sealed)
	sealed2[len(sealed2)-1] ^= 1
	for name, open := range map[string]func() ([]byte, error){
		"another name":    func() ([]byte, error) { return s.Open(sealed, "default", "azure") },
		"moved border":    func() ([]byte, error) { return s.Open(sealed, "defaulto", "penai") },
		"damaged":         func() ([]byte, error) { return s.Open(sealed2, "default", "openai") },
		"shorter than it": func() ([]byte, error) { return s.Open(sealed[:5], "default", "openai") },
	} {
		if _, err := open(); !errors.Is(err, ErrSealed) {
			t.Errorf("%s: %v, want ErrSealed", name, err)
		}
	}
}

func TestKeyFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key")
	first, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || !bytes.Equal(first, again) {
		t.Errorf("the second call: %v, same key %v", err, bytes.Equal(first, again))
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "0644") {
		t.Errorf("a key others can read: %v", err)
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 3)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("a damaged key was taken")
	}
}

func TestPasswords(t *testing.T) {
	encoded := HashPassword("correct horse")
	if !VerifyPassword(encoded, "correct horse") || VerifyPassword(encoded, "wrong") {
		t.Error("the right password is refused or a wrong one taken")
	}
	if encoded == HashPassword("correct horse") {
		t.Error("two hashes of one password are the same")
	}
	for _, bad := range []string{"", "$argon2id$", "$argon2id$v=19$m=999999999,t=2,p=1$AAAA$AAAA", "$argon2id$v=19$m=0,t=0,p=1$$"} {
		if VerifyPassword(bad, "") {
			t.Errorf("%q verifies", bad)
		}
	}
}
