package edgestore

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

func token(appID string) *gwv1.StoredToken {
	return &gwv1.StoredToken{Answer: &gwv1.ValidateTokenResponse{Valid: true, AppId: appID}, ValidatedAt: 42}
}

func mustTokens(t *testing.T, s *Store) map[[32]byte]*gwv1.StoredToken {
	t.Helper()
	tokens, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokensOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	for i := range byte(5) {
		if err := s.SaveToken([32]byte{i}, token("a")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveToken([32]byte{1}, &gwv1.StoredToken{Revoked: true}); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteTokens([32]byte{2}, [32]byte{3}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s) // writes what is queued
	got := mustTokens(t, mustOpen(t, dir))
	if len(got) != 3 || !got[[32]byte{1}].Revoked || !proto.Equal(got[[32]byte{4}], token("a")) {
		t.Errorf("got %v", got)
	}
}

func TestAccessVersionIsSavedWithTheTokensBeforeIt(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	s.SaveToken([32]byte{7}, &gwv1.StoredToken{Revoked: true})
	access := &gwv1.StoredAccess{ClusterId: "c", Epoch: 2, AccessVersion: 9}
	if err := s.SaveAccess(t.Context(), access); err != nil {
		t.Fatal(err)
	}
	// As another process would find it if this one died now.
	copied := t.TempDir()
	for _, name := range []string{"config.db", "config.db-wal", "edge.key"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(copied, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	other := mustOpen(t, copied)
	got, err := other.Access(t.Context())
	if err != nil || !proto.Equal(got, access) {
		t.Errorf("got %v, %v, want %v", got, err, access)
	}
	if !mustTokens(t, other)[[32]byte{7}].GetRevoked() {
		t.Error("the version is on disk, the revocation before it is not")
	}
}

func TestRefusedWriteIsReportedAndKept(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	mustSave(t, s, 1, "a=1")
	// SQLite reports a full disk when it may not have more pages.
	if _, err := s.db.Exec("PRAGMA max_page_count = 1"); err != nil {
		t.Fatal(err)
	}
	big := token("a")
	big.Answer.App = string(bytes.Repeat([]byte("x"), 1<<20))
	s.SaveToken([32]byte{1}, big)
	if err := s.SaveAccess(t.Context(), &gwv1.StoredAccess{AccessVersion: 5}); err == nil {
		t.Fatal("a full disk was not reported")
	}
	if _, err := s.Access(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("the version was saved without its tokens: %v", err)
	}
	r, blobs := release(2, "a="+string(bytes.Repeat([]byte("y"), 1<<20)))
	if err := s.SaveRelease(t.Context(), r, blobs); err == nil {
		t.Error("a full disk was not reported")
	}
	wantLoad(t, s, 0, "1: a=1")
	if _, err := s.db.Exec("PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(mustTokens(t, s)) != 1 {
		t.Error("the token was not kept for the next try")
	}
}

func TestSecretsAreSealed(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	secrets := []*gwv1.SecretValue{{Name: "openai", Version: 3, Value: []byte("sk-very-secret-value")}, {Name: "other", Value: []byte("o")}}
	if err := s.SaveSecrets(t.Context(), secrets); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveSecrets(t.Context(), secrets[:1]); err != nil {
		t.Fatal(err)
	}
	got, err := s.Secrets(t.Context())
	if err != nil || len(got) != 1 || !proto.Equal(got[0], secrets[0]) {
		t.Errorf("got %v, %v, want %v", got, err, secrets[:1])
	}
	for _, name := range []string{"config.db", "config.db-wal"} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(data, secrets[0].Value) {
			t.Errorf("%s holds the secret in clear", name)
		}
	}
	mustClose(t, s)

	// Another edge's key opens nothing, and is no reason not to start.
	if err := os.Remove(filepath.Join(dir, "edge.key")); err != nil {
		t.Fatal(err)
	}
	got, err = mustOpen(t, dir).Secrets(t.Context())
	if !errors.Is(err, ErrCorrupt) || len(got) != 0 || bytes.Contains([]byte(err.Error()), secrets[0].Value) {
		t.Errorf("got %v, %v, want ErrCorrupt", got, err)
	}
}

func TestSecretIsBoundToItsName(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if err := s.SaveSecrets(t.Context(), []*gwv1.SecretValue{{Name: "a", Value: []byte("1")}}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	var record []byte
	db, err := openDB(filepath.Join(dir, "config.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := db.QueryRow("SELECT record FROM secrets").Scan(&record); err != nil {
		t.Fatal(err)
	}
	db.Close()
	stored := &gwv1.StoredSecret{}
	if err := proto.Unmarshal(record, stored); err != nil {
		t.Fatal(err)
	}
	stored.Name = "b"
	record, _ = proto.Marshal(stored)
	tamper(t, dir, "UPDATE secrets SET name = 'b', record = ?", record)
	if got, err := mustOpen(t, dir).Secrets(t.Context()); !errors.Is(err, ErrCorrupt) || len(got) != 0 {
		t.Errorf("a secret passed for another: %v, %v", got, err)
	}
}

func TestEnrolmentIsKeptUntilThereIsAnIdentityWithItsKey(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if _, err := s.Enrolment(); !errors.Is(err, ErrNone) {
		t.Errorf("got %v, want ErrNone", err)
	}
	e := &gwv1.StoredEnrolment{EdgeId: "e", JoinTokenId: "j", PrivateKey: []byte("the private key"), Csr: []byte("request")}
	if err := s.SaveEnrolment(e); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, enrolmentFile)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info, err)
	}
	if err := s.SaveIdentity(&gwv1.StoredIdentity{EdgeId: "e", Certificate: []byte("c"), PrivateKey: []byte("another key")}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	s = mustOpen(t, dir)
	if got, err := s.Enrolment(); err != nil || !proto.Equal(got, e) {
		t.Errorf("after another identity was saved: got %v, %v", got.GetEdgeId(), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range whole {
		if err := os.WriteFile(path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enrolment(); !errors.Is(err, ErrCorrupt) || strings.Contains(err.Error(), "private") {
			t.Errorf("cut at %d: got %v, want ErrCorrupt", cut, err)
		}
	}
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.SaveIdentity(&gwv1.StoredIdentity{EdgeId: "e", Certificate: []byte("c"), PrivateKey: e.PrivateKey}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Enrolment(); !errors.Is(err, ErrNone) {
		t.Errorf("after its identity was saved: got %v, want ErrNone", err)
	}
}

func TestIdentityFile(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	id := &gwv1.StoredIdentity{EdgeId: "e", Namespace: "default", Certificate: []byte("c"), PrivateKey: []byte("the private key"), HubUrls: []string{"https://h:1"}}
	if err := s.SaveIdentity(id); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "identity.pb")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	if got, err := s.Identity(); err != nil || !proto.Equal(got, id) {
		t.Errorf("got %v, %v", got, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range len(data) {
		if err := os.WriteFile(path, data[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := s.Identity()
		if err == nil && !bytes.Equal(got.PrivateKey, id.PrivateKey) {
			t.Errorf("cut at %d: accepted %v", cut, got)
		}
		if err != nil && (!errors.Is(err, ErrCorrupt) || bytes.Contains([]byte(err.Error()), id.PrivateKey)) {
			t.Errorf("cut at %d: got %v", cut, err)
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, "identity.pb.tmp-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// FuzzRecords puts arbitrary bytes where records were: nothing may panic, and no release is returned that isn't whole.
func FuzzRecords(f *testing.F) {
	r, blobs := release(1, "a=1")
	record, _ := proto.Marshal(r)
	blob, _ := proto.Marshal(blobs[0])
	f.Add(record, blob)
	f.Add([]byte{}, blob)
	f.Add(record, []byte("noise"))
	s, err := Open(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, record, blob []byte) {
		for _, statement := range []struct {
			query string
			args  []any
		}{
			{"DELETE FROM releases", nil},
			{"DELETE FROM blobs", nil},
			{"DELETE FROM tokens", nil},
			{"DELETE FROM access", nil},
			{"DELETE FROM secrets", nil},
			{"INSERT INTO releases (record) VALUES (?)", []any{append([]byte{}, record...)}},
			{"INSERT INTO blobs (digest, record) VALUES (?, ?)", []any{blobs[0].Digest, append([]byte{}, blob...)}},
			{"INSERT INTO tokens (hash, record) VALUES (?, ?)", []any{blobs[0].Digest, append([]byte{}, blob...)}},
			{"INSERT INTO access (id, record) VALUES (1, ?)", []any{append([]byte{}, blob...)}},
			{"INSERT INTO secrets (name, record) VALUES ('a', ?)", []any{append([]byte{}, blob...)}},
		} {
			if _, err := s.db.Exec(statement.query, statement.args...); err != nil {
				t.Fatal(err)
			}
		}
		if r, got, err := s.LoadRelease(t.Context(), 0); err == nil {
			if len(r.Entries) != len(got) || verifyManifest(r) != nil {
				t.Fatalf("returned %v, %v", r, got)
			}
		}
		s.Tokens(t.Context())
		s.Access(t.Context())
		if secrets, _ := s.Secrets(t.Context()); len(secrets) > 0 {
			t.Fatalf("opened %v", secrets)
		}
		r, blobs := release(2, "b=1")
		if err := s.SaveRelease(t.Context(), r, blobs); err != nil {
			t.Fatal(err)
		}
	})
}
