package edgestore

import (
	"bufio"
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// childDir, in the environment, makes this binary a process that saves releases until it is killed.
const childDir = "EDGESTORE_TEST_CHILD_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		saveForever(dir)
		os.Exit(1)
	}
	if where := os.Getenv(spoolDir); where != "" {
		sendForever(where)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func mustOpen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func mustClose(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// release makes release number n with these resources, given as NAME=SPEC.
func release(n uint64, resources ...string) (*gwv1.StoredRelease, []*gwv1.Blob) {
	slices.Sort(resources)
	r := &gwv1.StoredRelease{Namespace: "default", Target: &gwv1.Target{Epoch: 1, Number: n}}
	var blobs []*gwv1.Blob
	var entries []resource.Entry
	for _, pair := range resources {
		name, spec, _ := strings.Cut(pair, "=")
		digest := resource.DigestOf("API", name, []byte(spec))
		entries = append(entries, resource.Entry{Kind: "API", Name: name, Digest: digest})
		r.Entries = append(r.Entries, &gwv1.ManifestEntry{Kind: "API", Name: name, Digest: digest[:]})
		blobs = append(blobs, &gwv1.Blob{Digest: digest[:], Kind: "API", Name: name, Spec: []byte(spec)})
	}
	sum := resource.Checksum(slices.Values(entries))
	r.Target.Checksum = sum[:]
	return r, blobs
}

func digestOf(name, spec string) []byte {
	d := resource.DigestOf("API", name, []byte(spec))
	return d[:]
}

func mustSave(t *testing.T, s *Store, n uint64, resources ...string) {
	t.Helper()
	r, blobs := release(n, resources...)
	if err := s.SaveRelease(t.Context(), r, blobs); err != nil {
		t.Fatal(err)
	}
}

// load returns a generation as "NUMBER: NAME=SPEC …".
func load(s *Store, generation int) (string, error) {
	r, blobs, err := s.LoadRelease(context.Background(), generation)
	if err != nil {
		return "", err
	}
	text := strconv.FormatUint(r.Target.Number, 10) + ":"
	for _, b := range blobs {
		text += " " + b.Name + "=" + string(b.Spec)
	}
	return text, nil
}

func wantLoad(t *testing.T, s *Store, generation int, want string) {
	t.Helper()
	if got, err := load(s, generation); err != nil || got != want {
		t.Errorf("generation %d: got %q, %v, want %q", generation, got, err, want)
	}
}

func wantBlobs(t *testing.T, s *Store, want int) {
	t.Helper()
	var got int
	if err := s.read(func(db *sql.DB) error { return db.QueryRow("SELECT count(*) FROM blobs").Scan(&got) }); err != nil {
		t.Fatal(err)
	}
	if got != want {
		t.Errorf("got %d blobs on disk, want %d", got, want)
	}
}

// tamper changes the file behind the store's back.
func tamper(t *testing.T, dir, query string, args ...any) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "config.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	result, err := db.Exec(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := result.RowsAffected(); n == 0 {
		t.Fatal("nothing was tampered with")
	}
}

func TestEmptyStoreHasNothing(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	if _, err := load(s, 0); !errors.Is(err, ErrNone) {
		t.Errorf("release: got %v, want ErrNone", err)
	}
	if _, err := s.Access(t.Context()); !errors.Is(err, ErrNone) {
		t.Errorf("access: got %v, want ErrNone", err)
	}
	if _, err := s.Identity(); !errors.Is(err, ErrNone) {
		t.Errorf("identity: got %v, want ErrNone", err)
	}
}

func TestTwoGenerationsAreKept(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	mustSave(t, s, 1, "a=1", "b=1")
	mustSave(t, s, 2, "a=2", "b=1")
	wantLoad(t, s, 0, "2: a=2 b=1")
	wantLoad(t, s, 1, "1: a=1 b=1")
	wantBlobs(t, s, 3)
	mustSave(t, s, 3, "b=1", "c=1")
	wantLoad(t, s, 0, "3: b=1 c=1")
	wantLoad(t, s, 1, "2: a=2 b=1")
	wantBlobs(t, s, 3) // a=1 is gone
	mustSave(t, s, 4)
	mustSave(t, s, 5)
	wantLoad(t, s, 0, "5:")
	wantBlobs(t, s, 0)
	if _, err := load(s, 2); !errors.Is(err, ErrNone) {
		t.Errorf("third generation: got %v, want ErrNone", err)
	}
	mustClose(t, s)
	wantLoad(t, mustOpen(t, dir), 0, "5:")
}

func TestSavingTheSameReleaseAgainKeepsTheOneBefore(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	mustSave(t, s, 1, "a=1")
	mustSave(t, s, 2, "a=2")
	mustSave(t, s, 2, "a=2")
	wantLoad(t, s, 1, "1: a=1")
}

func TestReleaseWithoutAllItsBytesIsNotSaved(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	mustSave(t, s, 1, "a=1")
	r, blobs := release(2, "a=1", "b=2")
	if err := s.SaveRelease(t.Context(), r, blobs[:1]); err == nil {
		t.Error("saved a release that lacks b's bytes")
	}
	wantLoad(t, s, 0, "1: a=1")
	if err := s.SaveRelease(t.Context(), r, blobs[1:]); err != nil {
		t.Errorf("bytes on disk are not needed again: %v", err)
	}
	wantLoad(t, s, 0, "2: a=1 b=2")
}

func TestChangedBytesAreFound(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, dir string){
		"spec": func(t *testing.T, dir string) {
			_, blobs := release(2, "a=2")
			digest := blobs[0].Digest
			blobs[0].Spec = []byte("3")
			record, _ := proto.Marshal(blobs[0])
			tamper(t, dir, "UPDATE blobs SET record = ? WHERE digest = ?", record, digest)
		},
		"blob gone": func(t *testing.T, dir string) {
			tamper(t, dir, "DELETE FROM blobs WHERE digest = ?", digestOf("a", "2"))
		},
		"blob noise": func(t *testing.T, dir string) {
			tamper(t, dir, "UPDATE blobs SET record = x'ff00ff' WHERE digest = ?", digestOf("a", "2"))
		},
		"record torn": func(t *testing.T, dir string) {
			tamper(t, dir, "UPDATE releases SET record = substr(record, 1, 20) WHERE generation = 2")
		},
		"another manifest": func(t *testing.T, dir string) {
			r, _ := release(2, "a=1")
			honest, _ := release(2, "a=2")
			r.Target = honest.Target
			record, _ := proto.Marshal(r)
			tamper(t, dir, "UPDATE releases SET record = ? WHERE generation = 2", record)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpen(t, dir)
			mustSave(t, s, 1, "a=1")
			mustSave(t, s, 2, "a=2")
			mustClose(t, s)
			change(t, dir)
			s = mustOpen(t, dir)
			if got, err := load(s, 0); !errors.Is(err, ErrCorrupt) {
				t.Errorf("got %q, %v, want ErrCorrupt", got, err)
			}
			wantLoad(t, s, 1, "1: a=1")
			mustSave(t, s, 3, "a=3") // a damaged generation is no obstacle
			wantLoad(t, s, 0, "3: a=3")
		})
	}
}

func TestDamagedFileIsSetAside(t *testing.T) {
	whole := func() (string, []byte) {
		dir := t.TempDir()
		s := mustOpen(t, dir)
		specs := make([]string, 200)
		for i := range specs {
			specs[i] = fmt.Sprintf("n%03d=%s", i, strings.Repeat("x", 200))
		}
		mustSave(t, s, 1, specs...)
		mustClose(t, s)
		data, err := os.ReadFile(filepath.Join(dir, "config.db"))
		if err != nil {
			t.Fatal(err)
		}
		return dir, data
	}
	for name, damage := range map[string]func([]byte) []byte{
		"truncated to a page":      func(b []byte) []byte { return b[:4096] },
		"truncated in the middle":  func(b []byte) []byte { return b[:len(b)/2] },
		"last page torn":           func(b []byte) []byte { return b[:len(b)-1000] },
		"header torn":              func(b []byte) []byte { return b[:50] },
		"noise":                    func(b []byte) []byte { return bytes.Repeat([]byte("noise"), 2000) },
		"pages zeroed":             func(b []byte) []byte { clear(b[4096:]); return b },
		"of another kind of store": func(b []byte) []byte { b[63] = 99; return b }, // user_version
	} {
		t.Run(name, func(t *testing.T) {
			dir, data := whole()
			if err := os.WriteFile(filepath.Join(dir, "config.db"), damage(data), 0o600); err != nil {
				t.Fatal(err)
			}
			s := mustOpen(t, dir)
			if _, err := os.Stat(s.SetAside()); err != nil {
				t.Errorf("the damaged file was not set aside: %v", err)
			}
			if _, err := load(s, 0); !errors.Is(err, ErrNone) {
				t.Errorf("got %v, want ErrNone", err)
			}
			mustSave(t, s, 2, "a=2")
			mustClose(t, s)
			s = mustOpen(t, dir)
			if s.SetAside() != "" {
				t.Error("the new file was set aside too")
			}
			wantLoad(t, s, 0, "2: a=2")
		})
	}
}

func TestFileDamagedWhileOpenDoesNotStopSaving(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	mustSave(t, s, 1, "a=1")
	spoil(t, s, dir)
	mustSave(t, s, 2, "a=2")
	wantLoad(t, s, 0, "2: a=2")
	if s.SetAside() == "" {
		t.Error("the damaged file was not set aside")
	}
}

// spoil damages the file of an open store.
func spoil(t *testing.T, s *Store, dir string) {
	t.Helper()
	if err := s.read(func(db *sql.DB) error { _, err := db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); return err }); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config.db")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 100; i < len(data); i++ {
		data[i] = 0xa5
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(data, 0); err != nil {
		t.Fatal(err)
	}
	f.Close()
	s.db.SetMaxIdleConns(0) // forget the page cache
	s.db.SetMaxIdleConns(1)
}

func TestDirectoryIsForOneProcess(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	if _, err := Open(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second Open: got %v, want ErrLocked", err)
	}
	mustClose(t, s)
	mustOpen(t, dir)
}

func TestClosedStoreSaysSo(t *testing.T) {
	s := mustOpen(t, t.TempDir())
	mustClose(t, s)
	if _, err := load(s, 0); !errors.Is(err, ErrClosed) {
		t.Errorf("load: got %v", err)
	}
	if err := s.SaveToken([32]byte{1}, &gwv1.StoredToken{}); !errors.Is(err, ErrClosed) {
		t.Errorf("save token: got %v", err)
	}
	if err := s.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("close again: got %v", err)
	}
}

// saveForever saves one release after the other and says so once each is saved.
func saveForever(dir string) {
	s, err := Open(dir)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	first := uint64(1)
	if r, _, err := s.LoadRelease(context.Background(), 0); err == nil {
		first = r.Target.Number + 1
	}
	for n := first; ; n++ {
		specs := make([]string, 50)
		for i := range specs {
			specs[i] = fmt.Sprintf("n%02d=%d", i, n-n%uint64(i+1)) // some change, some don't
		}
		r, blobs := release(n, specs...)
		if err := s.SaveRelease(context.Background(), r, blobs); err != nil {
			fmt.Println("error", err)
			return
		}
		fmt.Println("saved", n)
	}
}

func TestKilledProcessLosesNothingSaved(t *testing.T) {
	dir := t.TempDir()
	for round := range 6 {
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), childDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var last uint64
		lines := bufio.NewScanner(out)
		for range 3 + 7*round {
			if !lines.Scan() {
				break
			}
			if _, err := fmt.Sscanf(lines.Text(), "saved %d", &last); err != nil {
				t.Errorf("child says %q", lines.Text())
			}
		}
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() { // what it had saved by then counts too
			fmt.Sscanf(lines.Text(), "saved %d", &last)
		}
		child.Wait()

		s, err := Open(dir)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if s.SetAside() != "" {
			t.Fatalf("round %d: the file was set aside", round)
		}
		r, _, err := s.LoadRelease(t.Context(), 0)
		if err != nil || r.Target.Number < last || last == 0 {
			t.Fatalf("round %d: got release %d, %v, want at least %d", round, r.GetTarget().GetNumber(), err, last)
		}
		before, _, err := s.LoadRelease(t.Context(), 1)
		if err != nil || before.Target.Number != r.Target.Number-1 {
			t.Fatalf("round %d: generation before: got %d, %v", round, before.GetTarget().GetNumber(), err)
		}
		mustClose(t, s)
	}
}

func BenchmarkSaveOneChangeOf10000(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	specs := make([]string, 10_000)
	for i := range specs {
		specs[i] = fmt.Sprintf("n%05d=%s", i, strings.Repeat("x", 500))
	}
	r, blobs := release(1, specs...)
	if err := s.SaveRelease(b.Context(), r, blobs); err != nil {
		b.Fatal(err)
	}
	n := uint64(2)
	for b.Loop() {
		specs[5000] = fmt.Sprintf("n05000=%d", n)
		r, blobs := release(n, specs...)
		if err := s.SaveRelease(b.Context(), r, blobs); err != nil {
			b.Fatal(err)
		}
		n++
	}
}

func BenchmarkOpenAndLoad10000(b *testing.B) {
	dir := b.TempDir()
	s, err := Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	specs := make([]string, 10_000)
	for i := range specs {
		specs[i] = fmt.Sprintf("n%05d=%s", i, strings.Repeat("x", 500))
	}
	r, blobs := release(1, specs...)
	if err := s.SaveRelease(b.Context(), r, blobs); err != nil {
		b.Fatal(err)
	}
	s.Close()
	for b.Loop() {
		s, err := Open(dir)
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := s.LoadRelease(b.Context(), 0); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}

func TestAnyDirectoryNameWorks(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, dir := range []string{"relative", "with space/and?query=1#fragment%20"} {
		s := mustOpen(t, dir)
		mustSave(t, s, 1, "a=1")
		mustClose(t, s)
		if _, err := os.Stat(filepath.Join(dir, "config.db")); err != nil {
			t.Error(err)
		}
		s = mustOpen(t, dir)
		wantLoad(t, s, 0, "1: a=1")
		mustClose(t, s)
	}
}
