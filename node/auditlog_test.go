package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
)

// audited is a state with n audit entries; made on with more.
type audited struct {
	t  *testing.T
	st *state.State
}

func newAudited(t *testing.T) *audited {
	a := &audited{t, state.New()}
	a.do(&gwv1.Command{Body: &gwv1.Command_Bootstrap{Bootstrap: &gwv1.Bootstrap{ClusterId: "c1"}}})
	return a
}

func (a *audited) do(c *gwv1.Command) {
	a.t.Helper()
	c.FeatureLevel, c.Actor, c.ProposedAt = state.FeatureLevel, "ann", 1_700_000_000_000_000_000
	next, r, _ := a.st.Apply(a.st.Index()+1, c)
	if r.GetRefusal() != nil {
		a.t.Fatal(r.Refusal.Message)
	}
	a.st = next
}

func (a *audited) users(names ...string) {
	a.t.Helper()
	for _, n := range names {
		a.do(&gwv1.Command{Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: &gwv1.UserRecord{Name: n, Role: "admin"}}}})
	}
}

// objects are those of the lines of a file, in order.
func objects(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for line := range strings.Lines(string(data)) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || !strings.HasSuffix(line, "\n") {
			t.Fatalf("line %q: %v", line, err)
		}
		if l.At.IsZero() || l.Actor != "ann" || l.Cluster != "c1" {
			t.Errorf("line %q", line)
		}
		found = append(found, l.Object)
	}
	return strings.Join(found, " ")
}

func openAudit(t *testing.T, path string) *auditLog {
	t.Helper()
	a, err := openAuditLog(path, "c1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.file.Close() })
	return a
}

func writeAudit(t *testing.T, a *auditLog, st *state.State) {
	t.Helper()
	if err := a.write(st); err != nil {
		t.Fatal(err)
	}
}

func TestTheAuditLogHasEveryEntryOnce(t *testing.T) {
	path, s := filepath.Join(t.TempDir(), "audit.jsonl"), newAudited(t)
	s.users("a", "b")
	a := openAudit(t, path)
	writeAudit(t, a, s.st)
	writeAudit(t, a, s.st)
	s.users("c")
	writeAudit(t, a, s.st)
	if got, want := objects(t, path), "cluster/c1 user/a user/b user/c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	// Started again, it goes on where it was, and what a cut left is not half a line.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, `{"at":"2026-01-0`)
	f.Close()
	s.users("d", "e")
	writeAudit(t, openAudit(t, path), s.st)
	if got, want := objects(t, path), "cluster/c1 user/a user/b user/c user/d user/e"; got != want {
		t.Errorf("after a restart: %q, want %q", got, want)
	}
	// Moved away by what rotates logs, it is made anew.
	a = openAudit(t, path)
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	s.users("f")
	writeAudit(t, a, s.st)
	if got := objects(t, path); got != "user/f" {
		t.Errorf("after it was moved away: %q", got)
	}
}

func TestAnAuditLogOfAnotherClusterIsGoneOnWithFromTheStart(t *testing.T) {
	path, s := filepath.Join(t.TempDir(), "audit.jsonl"), newAudited(t)
	if err := os.WriteFile(path, []byte(`{"at":"2026-01-02T03:04:05Z","cluster":"c0","index":900,"actor":"ann","action":"x","object":"y"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	writeAudit(t, openAudit(t, path), s.st)
	data, err := os.ReadFile(path)
	if err != nil || strings.Count(string(data), "\n") != 2 || !strings.Contains(string(data), "cluster/c1") {
		t.Errorf("got %s, %v", data, err)
	}
}

func TestAFileThatIsNoAuditLogIsRefused(t *testing.T) {
	for name, content := range map[string]string{
		"text": "hello\n", "other JSON": `{"a":1}` + "\n", "long, without lines": strings.Repeat("x", 3*maxAuditLine),
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openAuditLog(path, "c1", slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "name another file") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(path); err != nil || string(after) != content {
			t.Errorf("%s: it was changed", name)
		}
	}
}

// scripted gives one state after the other, and then ends.
type scripted struct{ states []*state.State }

func (s *scripted) State() *state.State { return s.states[0] }

func (s *scripted) Wait(context.Context, uint64) (*state.State, error) {
	if s.states = s.states[1:]; len(s.states) == 0 {
		return nil, context.Canceled
	}
	return s.states[0], nil
}

func TestTheAuditLogFollowsTheStore(t *testing.T) {
	path, s := filepath.Join(t.TempDir(), "audit.jsonl"), newAudited(t)
	var states []*state.State
	for _, name := range []string{"a", "b", "c"} {
		s.users(name)
		states = append(states, s.st)
	}
	if err := openAudit(t, path).keep(t.Context(), &scripted{states}); err != nil {
		t.Fatal(err)
	}
	if got, want := objects(t, path), "cluster/c1 user/a user/b user/c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
