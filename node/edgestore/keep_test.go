package edgestore

import (
	"bytes"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// inBubble runs f with an open store on a fake clock.
func inBubble(t *testing.T, f func(t *testing.T, s *Store, dir string)) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		s.LogTo(slog.New(slog.DiscardHandler))
		f(t, s, dir)
	})
}

// allow bounds the file to a number of pages, which SQLite reports as a full disk.
func allow(t *testing.T, s *Store, pages int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := s.db.Exec(fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
		t.Fatal(err)
	}
}

func wantFault(t *testing.T, s *Store, want string) {
	t.Helper()
	err := s.Fault()
	if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Errorf("got fault %v, want %q", err, want)
	}
}

func big(name string) string { return name + "=" + string(bytes.Repeat([]byte(name), 1<<20)) }

func TestRefusedReleaseIsSavedOnceTheDiskTakesIt(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Store, dir string) {
		mustSave(t, s, 1, "a=1")
		allow(t, s, 1)
		r, blobs := release(2, big("b"))
		if err := s.SaveRelease(t.Context(), r, blobs); err == nil {
			t.Fatal("a full disk was not reported")
		}
		wantFault(t, s, "save release 2")
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		wantFault(t, s, "save release 2")
		allow(t, s, 1_000_000)
		time.Sleep(lastRetry)
		synctest.Wait()
		wantFault(t, s, "")
		wantLoad(t, s, 0, "2: "+big("b"))
		wantLoad(t, s, 1, "1: a=1")
	})
}

func TestRefusedReleaseGivesWayToANewerOne(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Store, dir string) {
		mustSave(t, s, 1, "a=1")
		allow(t, s, 1)
		r, blobs := release(2, big("b"))
		if err := s.SaveRelease(t.Context(), r, blobs); err == nil {
			t.Fatal("a full disk was not reported")
		}
		allow(t, s, 1_000_000)
		mustSave(t, s, 3, "c=3")
		wantFault(t, s, "")
		time.Sleep(2 * lastRetry)
		synctest.Wait()
		wantLoad(t, s, 0, "3: c=3")
		wantLoad(t, s, 1, "1: a=1")
	})
}

func TestRefusedSecretsAreSavedOnceTheDiskTakesThem(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Store, dir string) {
		allow(t, s, 1)
		secrets := []*gwv1.SecretValue{{Name: "key", Version: 1, Value: bytes.Repeat([]byte("x"), 1<<20)}}
		if err := s.SaveSecrets(t.Context(), secrets); err == nil {
			t.Fatal("a full disk was not reported")
		}
		wantFault(t, s, "save secrets")
		allow(t, s, 1_000_000)
		time.Sleep(lastRetry)
		synctest.Wait()
		wantFault(t, s, "")
		if got, err := s.Secrets(t.Context()); err != nil || len(got) != 1 {
			t.Errorf("got %d secrets, %v", len(got), err)
		}
	})
}

func TestRefusedIdentityIsSavedOnceTheDiskTakesIt(t *testing.T) {
	inBubble(t, func(t *testing.T, s *Store, dir string) {
		path := filepath.Join(dir, "identity.pb")
		if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
			t.Fatal(err)
		}
		id := &gwv1.StoredIdentity{EdgeId: "edge-1", Certificate: []byte("c"), PrivateKey: []byte("very private")}
		if err := s.SaveIdentity(id); err == nil {
			t.Fatal("the fault was not reported")
		}
		wantFault(t, s, "save identity")
		if strings.Contains(s.Fault().Error(), "very private") {
			t.Error("the fault holds the key")
		}
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(lastRetry)
		synctest.Wait()
		wantFault(t, s, "")
		if got, err := s.Identity(); err != nil || got.EdgeId != "edge-1" {
			t.Errorf("got %v, %v", got, err)
		}
	})
}

func TestFileDamagedWhileOpenIsFilledAgain(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	mustSave(t, s, 1, "a=1")
	if err := s.SaveSecrets(t.Context(), []*gwv1.SecretValue{{Name: "key", Version: 1, Value: []byte("one")}}); err != nil {
		t.Fatal(err)
	}
	mustClose(t, s)
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(dir) // what a process reads at its start is as good as what it saves
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var log bytes.Buffer
		s.LogTo(slog.New(slog.NewTextHandler(&log, nil)))
		r, blobs, err := s.LoadRelease(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		s.Serves(r, blobs)
		if _, err := s.Secrets(t.Context()); err != nil {
			t.Fatal(err)
		}
		saveTokens := func(tokens map[[32]byte]*gwv1.StoredToken) {
			for hash, token := range tokens {
				if err := s.SaveToken(hash, token); err != nil {
					t.Error(err)
				}
			}
		}
		valid := &gwv1.StoredToken{Answer: &gwv1.ValidateTokenResponse{Valid: true, AppId: "app"}}
		revoked := &gwv1.StoredToken{Revoked: true}
		known := map[[32]byte]*gwv1.StoredToken{{1}: valid, {2}: revoked}
		saveTokens(map[[32]byte]*gwv1.StoredToken{{1}: valid, {2}: valid, {3}: valid}) // as it was when 2 and 3 were good
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.OnTokensLost(func() { saveTokens(known) })
		spoil(t, s, dir)
		if err := s.SaveAccess(t.Context(), &gwv1.StoredAccess{AccessVersion: 5}); err != nil {
			t.Fatal(err)
		}
		wantFault(t, s, "release 1")
		wantFault(t, s, "secrets")
		wantFault(t, s, "tokens")
		wantFault(t, s, filepath.Base(s.SetAside()))
		if !strings.Contains(log.String(), s.SetAside()) {
			t.Errorf("the log doesn't say where the file is: %s", log.String())
		}
		time.Sleep(2 * firstRetry)
		synctest.Wait()
		wantFault(t, s, "")
		wantLoad(t, s, 0, "1: a=1")
		if got, err := s.Secrets(t.Context()); err != nil || len(got) != 1 || string(got[0].Value) != "one" {
			t.Errorf("got secrets %v, %v", got, err)
		}
		if got, err := s.Access(t.Context()); err != nil || got.AccessVersion != 5 {
			t.Errorf("got %v, %v", got, err)
		}
		if got, err := s.Tokens(t.Context()); err != nil || !maps.EqualFunc(got, known, func(a, b *gwv1.StoredToken) bool { return proto.Equal(a, b) }) {
			t.Errorf("got tokens %v, %v, want %v", got, err, known)
		}
	})
}
