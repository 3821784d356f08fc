package edgestore

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// estate is all that an edge keeps, to be compared with what is left of it.
type estate struct {
	specs   map[uint64][]string // release → resources, two generations
	secrets []*gwv1.SecretValue
	tokens  map[[32]byte]*gwv1.StoredToken
	access  *gwv1.StoredAccess
}

func newEstate() estate {
	e := estate{specs: make(map[uint64][]string), tokens: make(map[[32]byte]*gwv1.StoredToken), access: &gwv1.StoredAccess{ClusterId: "c", Epoch: 1, AccessVersion: 77}}
	for n := range uint64(2) {
		for i := range 30 {
			e.specs[n+1] = append(e.specs[n+1], fmt.Sprintf("n%02d=%s", i, strings.Repeat(fmt.Sprint(i, "-", n*uint64(i%2)), 60)))
		}
	}
	for i := range 40 {
		e.tokens[[32]byte{byte(i), 1}] = &gwv1.StoredToken{Answer: &gwv1.ValidateTokenResponse{Valid: true, AppId: fmt.Sprint("app-", i)}, ValidatedAt: int64(i), Revoked: i%5 == 0}
	}
	for i := range 3 {
		e.secrets = append(e.secrets, &gwv1.SecretValue{Name: fmt.Sprint("s", i), Version: uint64(i), Value: bytes.Repeat([]byte("secret value "), 20)})
	}
	return e
}

// save writes release n and, with the second, everything else.
func (e estate) save(t *testing.T, s *Store, n uint64) {
	t.Helper()
	mustSave(t, s, n, slices.Clone(e.specs[n])...)
	if n == 1 {
		return
	}
	if err := s.SaveSecrets(t.Context(), e.secrets); err != nil {
		t.Fatal(err)
	}
	for hash, token := range e.tokens {
		if err := s.SaveToken(hash, token); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SaveAccess(t.Context(), e.access); err != nil {
		t.Fatal(err)
	}
}

// left opens what is left in dir and checks that it is nothing but what was saved, and that the edge can go on with it. It
// returns the newest release, 0 if none is left.
func (e estate) left(t *testing.T, dir, what string) (newest uint64) {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatalf("%s: the edge doesn't start: %v", what, err)
	}
	defer func() { s.Close() }()
	for generation := range generations {
		r, _, err := s.LoadRelease(t.Context(), generation)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrNone) {
				t.Errorf("%s: generation %d: %v", what, generation, err)
			}
			continue
		}
		want, ok := e.specs[r.Target.Number]
		if got, _ := load(s, generation); !ok || got != fmt.Sprint(r.Target.Number, ": ", strings.Join(want, " ")) || r.Target.Epoch != 1 || r.Namespace != "default" {
			t.Errorf("%s: generation %d is no release that was saved: %v", what, generation, r.Target)
		}
		newest = max(newest, r.Target.Number)
	}
	secrets, _ := s.Secrets(t.Context())
	for _, got := range secrets {
		if !slices.ContainsFunc(e.secrets, func(want *gwv1.SecretValue) bool { return proto.Equal(got, want) }) {
			t.Errorf("%s: secret %s has another value", what, got.Name)
		}
	}
	tokens, _ := s.Tokens(t.Context())
	for hash, got := range tokens {
		if !proto.Equal(got, e.tokens[hash]) {
			t.Errorf("%s: token %x is %v, want %v", what, hash[:2], got, e.tokens[hash])
		}
	}
	if access, err := s.Access(t.Context()); err == nil && !proto.Equal(access, e.access) {
		t.Errorf("%s: got access %v", what, access)
	}
	mustSave(t, s, 9, "after=1")
	if err := s.Close(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatalf("%s: the edge doesn't start again: %v", what, err)
	}
	if got, err := load(s, 0); err != nil || got != "9: after=1" {
		t.Errorf("%s: afterwards it saved %q, %v", what, got, err)
	}
	return newest
}

// dirOf makes a directory of these files.
func dirOf(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir, err := os.MkdirTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// filesOf reads all files of a directory, but for the lock and what is shared memory.
func filesOf(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	files := make(map[string][]byte)
	for _, name := range []string{"config.db", "config.db-wal", "edge.key", identityFile, identityCopy} {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			files[name] = data
		} else if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	return files
}

// with returns files with one of them changed.
func with(files map[string][]byte, name string, change func([]byte) []byte) map[string][]byte {
	changed := maps.Clone(files)
	changed[name] = change(bytes.Clone(files[name]))
	return changed
}

// Whatever byte of config.db the disk changes, wherever the file ends: the edge starts, believes nothing that it didn't
// save, and in most cases still has the newest release or the one before.
func TestE4_CorruptCacheFallsBackAGenerationThenToTheHub(t *testing.T) {
	want := newEstate()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want.save(t, s, 1)
	want.save(t, s, 2)
	mustClose(t, s)
	files := filesOf(t, dir)
	size := len(files["config.db"])
	left := map[string]map[uint64]int{}
	try := func(kind string, at int, change func(b []byte) []byte) {
		newest := want.left(t, dirOf(t, with(files, "config.db", change)), fmt.Sprintf("%s at %d of %d", kind, at, size))
		if left[kind] == nil {
			left[kind] = make(map[uint64]int)
		}
		left[kind][newest]++
	}
	for at := 5; at < size; at += size/110 + 1 {
		try("a byte changed", at, func(b []byte) []byte { b[at] ^= 0x55; return b })
	}
	for at := 0; at < size; at += size/30 + 1 {
		try("512 bytes zeroed", at, func(b []byte) []byte { clear(b[at:min(size, at+512)]); return b })
		try("cut", at, func(b []byte) []byte { return b[:at] })
	}
	t.Logf("newest release left, of those saved as 2 and 1 (0: none): %v", left)
	if n := left["a byte changed"]; n[0] > n[1]+n[2] {
		t.Errorf("one changed byte mostly leaves no release: %v", n)
	}
	if n := left["512 bytes zeroed"]; n[1] == 0 || n[2] == 0 {
		t.Errorf("a generation is never fallen back on: %v", n)
	}
}

// The log that SQLite appends to is cut where a process or a machine may have died while it wrote release 2: what is left
// is release 2 or release 1, whole.
func TestE4_DeathAtEveryStepOfASave(t *testing.T) {
	want := newEstate()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want.save(t, s, 1)
	mustClose(t, s)
	before := filesOf(t, dir)["config.db"]
	s = mustOpen(t, dir)
	want.save(t, s, 2)
	files := filesOf(t, dir) // as a process that is killed now leaves them
	mustClose(t, s)
	after := filesOf(t, dir)["config.db"]
	if !bytes.Equal(files["config.db"], before) || bytes.Equal(before, after) {
		t.Fatal("the log was not what was written to")
	}
	const header, frame = 32, 24 + 4096
	log := files["config.db-wal"]
	saved := 0
	for at := 0; at <= len(log); at += frame / 2 {
		for _, cut := range []int{at, at + header, at + header + 24} {
			if cut > len(log) {
				continue
			}
			newest := want.left(t, dirOf(t, with(files, "config.db-wal", func(b []byte) []byte { return b[:cut] })), fmt.Sprintf("log cut at %d of %d", cut, len(log)))
			if newest == 0 {
				t.Errorf("log cut at %d: no release is left", cut)
			}
			if newest == 2 {
				saved++
			}
			if newest == 1 && saved > 0 {
				t.Errorf("log cut at %d: release 2 is gone again", cut)
			}
		}
	}
	if saved == 0 {
		t.Error("the whole log does not hold release 2")
	}
	// The log is then copied into the file, page by page.
	for at := 0; at <= len(after); at += 2048 {
		mixed := slices.Concat(after[:at], before[min(at, len(before)):])
		if newest := want.left(t, dirOf(t, with(files, "config.db", func([]byte) []byte { return mixed })), fmt.Sprintf("file copied up to %d", at)); newest != 2 {
			t.Errorf("file copied up to %d: release %d is left", at, newest)
		}
	}
}

// A damaged identity is taken from its copy; with both gone the edge has to join again, and says so.
func TestDamagedIdentityIsReadFromItsCopy(t *testing.T) {
	dir := t.TempDir()
	s := mustOpen(t, dir)
	id := &gwv1.StoredIdentity{EdgeId: "e", Namespace: "default", Certificate: []byte("certificate"), PrivateKey: []byte("the private key")}
	if err := s.SaveIdentity(id); err != nil {
		t.Fatal(err)
	}
	s.LogTo(slog.New(slog.DiscardHandler))
	whole := filesOf(t, dir)[identityFile]
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for at := range whole {
		for kind, damaged := range map[string][]byte{
			"changed": slices.Concat(whole[:at], []byte{whole[at] ^ 1}, whole[at+1:]),
			"cut":     whole[:at],
		} {
			write(identityFile, damaged)
			write(identityCopy, whole)
			if got, err := s.Identity(); err != nil || !proto.Equal(got, id) {
				t.Errorf("%s at %d: got %v, %v", kind, at, got, err)
			}
			write(identityCopy, damaged)
			if got, err := s.Identity(); !errors.Is(err, ErrCorrupt) {
				t.Errorf("both %s at %d: got %v, %v", kind, at, got, err)
			}
		}
	}
	write(identityCopy, whole)
	if err := os.Remove(filepath.Join(dir, identityFile)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Identity(); !errors.Is(err, ErrNone) {
		t.Errorf("removed by somebody: got %v, %v, want ErrNone", got, err)
	}
}

func TestDamagedKeyIsNoReasonNotToStart(t *testing.T) {
	want := newEstate()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want.save(t, s, 2)
	mustClose(t, s)
	for _, cut := range []int{0, 1, 31} {
		s := mustOpen(t, dirOf(t, with(filesOf(t, dir), "edge.key", func(b []byte) []byte { return b[:cut] })))
		if found := strings.Join(s.Found(), "\n"); !strings.Contains(found, "edge.key was damaged") {
			t.Errorf("it says %q", found)
		}
		if secrets, err := s.Secrets(t.Context()); !errors.Is(err, ErrCorrupt) || len(secrets) > 0 {
			t.Errorf("got %v, %v", secrets, err)
		}
		if got, err := load(s, 0); err != nil || !strings.HasPrefix(got, "2: ") {
			t.Errorf("got %q, %v", got, err)
		}
		mustClose(t, s)
	}
}

func TestFilesOfAProcessThatDiedAreSwept(t *testing.T) {
	dir := dirOf(t, map[string][]byte{"identity.pb.tmp-1": []byte("k"), "identity.copy.pb.tmp-22": nil, "edge.key.tmp-3": []byte("k"), "notes": nil})
	mustOpen(t, dir)
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range files {
		names = append(names, f.Name())
	}
	if left := strings.Join(names, " "); strings.Contains(left, "tmp") || !strings.Contains(left, "notes") {
		t.Errorf("left: %s", left)
	}
}

// No byte of a secret is in any file, whatever state they are in.
func TestNoFileHoldsASecretInClear(t *testing.T) {
	want := newEstate()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want.save(t, s, 1)
	want.save(t, s, 2)
	look := func(when string) {
		t.Helper()
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(filepath.Join(dir, f.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(data, []byte("secret value")) {
				t.Errorf("%s: %s holds a secret in clear", when, f.Name())
			}
		}
	}
	look("open")
	mustClose(t, s)
	look("closed")
	path := filepath.Join(dir, "config.db")
	if err := os.Truncate(path, int64(len(filesOf(t, dir)["config.db"])/2)); err != nil {
		t.Fatal(err)
	}
	s = mustOpen(t, dir)
	if s.SetAside() == "" {
		t.Error("it was not set aside")
	}
	look("set aside")
	mustClose(t, s)
}

// What can be read of a damaged config.db is in the new one before that takes its place: a process that is killed meanwhile
// finds one or the other.
func TestWhatIsLeftOfADamagedFileOutlivesAKillMeanwhile(t *testing.T) {
	want := newEstate()
	dir := t.TempDir()
	s := mustOpen(t, dir)
	want.save(t, s, 1)
	want.save(t, s, 2)
	mustClose(t, s)
	files := filesOf(t, dir)
	var repaired []byte
	for at := len(files["config.db"]) / 2; repaired == nil; at += 512 { // until it is a page that most can be read without
		damaged := with(files, "config.db", func(b []byte) []byte { clear(b[at : at+512]); return b })
		dir := dirOf(t, damaged)
		s := mustOpen(t, dir)
		aside := s.SetAside()
		mustClose(t, s)
		now := filesOf(t, dir)["config.db"]
		if aside != "" && want.left(t, dir, "not killed") == 2 {
			files, repaired = damaged, now
		}
	}
	halfMade := maps.Clone(files)
	halfMade["config.db.new"] = repaired[:len(repaired)/2]
	halfMade["config.db.new-journal"] = []byte("half a journal")
	outOfTheWay := maps.Clone(files)
	outOfTheWay["config.db.damaged-x"] = files["config.db"]
	outOfTheWay["config.db.new"] = repaired
	delete(outOfTheWay, "config.db")
	for what, files := range map[string]map[string][]byte{"the new file half made": halfMade, "the damaged one out of the way": outOfTheWay} {
		dir := dirOf(t, files)
		if newest := want.left(t, dir, what); newest != 2 {
			t.Errorf("%s: release %d is left", what, newest)
		}
		if _, err := os.Stat(filepath.Join(dir, "config.db.new")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: the new file is still there: %v", what, err)
		}
	}
}
