package raftstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func testConfig(dir string) Config {
	return Config{
		Dir: dir, ElectionTimeout: time.Second, Version: "test",
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Bootstrap: func(nodeID string) (*gwv1.Bootstrap, error) {
			return &gwv1.Bootstrap{ClusterId: "cluster-of-" + nodeID}, nil
		},
	}
}

func mustOpen(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil && s.Err() == nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func save(namespace, name, spec string) *gwv1.Command {
	d := resource.DigestOf("API", name, []byte(spec))
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{
		Edits: []*gwv1.ResourceEdit{{Kind: "API", Namespace: namespace, Name: name, Spec: []byte(spec), Digest: d[:]}},
	}}}
}

func remove(namespace, name string) *gwv1.Command {
	return &gwv1.Command{Actor: "ann", Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{
		Edits: []*gwv1.ResourceEdit{{Kind: "API", Namespace: namespace, Name: name, Delete: true}},
	}}}
}

func (s *Store) mustPropose(t testing.TB, c *gwv1.Command) *gwv1.Result {
	t.Helper()
	r, err := s.Propose(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOneHubLeadsAtOnce(t *testing.T) {
	c := testConfig(t.TempDir())
	c.ElectionTimeout = 20 * time.Second // to tell an election from a slow machine
	began := time.Now()
	s := mustOpen(t, c)
	t.Logf("first start: %v", time.Since(began))
	if !s.Leading() || s.State().Cluster().ClusterId != "cluster-of-"+s.NodeID() {
		t.Errorf("leading %v, cluster %q", s.Leading(), s.State().Cluster().ClusterId)
	}
	s.mustPropose(t, save("default", "orders", "x"))
	term, id := s.State().Cluster().OpenTerm, s.NodeID()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	began = time.Now()
	s = mustOpen(t, c)
	took := time.Since(began)
	t.Logf("restart: %v", took)
	if took >= c.ElectionTimeout {
		t.Errorf("a lone hub took %v to lead: it waited for an election", took)
	}
	now := s.State().Cluster()
	if now.OpenTerm <= term || now.OpenTermNode != id || s.NodeID() != id {
		t.Errorf("after a restart: term %d (was %d) of %s, want a later one of %s", now.OpenTerm, term, now.OpenTermNode, id)
	}
	if _, ok := s.State().Resource("API", "default", "orders"); !ok {
		t.Error("the restart lost a resource")
	}
}

func TestDirectoryIsLocked(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, testConfig(dir))
	_, err := Open(testConfig(dir))
	if err == nil || !strings.Contains(err.Error(), "is in use by process") || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want a sentence about who uses %s", err, dir)
	}
}

func TestClosedStore(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Propose(t.Context(), save("default", "a", "x")); !errors.Is(err, ErrNotProposed) {
		t.Errorf("Propose: %v", err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrNotProposed) {
		t.Errorf("Read: %v", err)
	}
	if _, err := s.Wait(t.Context(), 1<<60); !errors.Is(err, ErrClosed) {
		t.Errorf("Wait: %v", err)
	}
	if s.Leading() {
		t.Error("a closed store leads")
	}
	if err := s.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestProposeErrors(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	_, err := s.Propose(t.Context(), save("default", "a", strings.Repeat("x", MaxEntry)))
	if !errors.Is(err, ErrTooLarge) || !errors.Is(err, ErrNotProposed) {
		t.Errorf("too large: %v", err)
	}
	_, err = s.Propose(t.Context(), save("NO", "a", "x"))
	var refused *Refused
	if !errors.As(err, &refused) || refused.Refusal.Code != gwv1.RefusalCode_REFUSAL_CODE_INVALID {
		t.Errorf("refused: %v", err)
	}
	_, err = s.Propose(t.Context(), &gwv1.Command{})
	if !errors.Is(err, ErrNotProposed) || !errors.Is(err, state.ErrTooOld) {
		t.Errorf("without a body: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = s.Propose(ended, save("default", "a", "x")); !errors.Is(err, ErrNotProposed) {
		t.Errorf("ended context: %v", err)
	}
	s.mustPropose(t, save("default", "a", "x")) // and none of these was fatal
}

func TestReadSeesWhatWasAcknowledged(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	errs := make(chan error, 8)
	for w := range cap(errs) {
		go func() {
			for i := range 25 {
				name := fmt.Sprintf("w%d-%d", w, i)
				if _, err := s.Propose(t.Context(), save("default", name, name)); err != nil {
					errs <- err
					return
				}
				st, err := s.Read(t.Context())
				if err != nil {
					errs <- err
					return
				}
				if _, ok := st.Resource("API", "default", name); !ok {
					errs <- fmt.Errorf("%s was acknowledged and not read", name)
					return
				}
			}
			errs <- nil
		}()
	}
	for range cap(errs) {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

func TestWaitWakesEveryWaiter(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	before := s.State().Index()
	woken := make(chan uint64, 5)
	for range cap(woken) {
		go func() {
			st, err := s.Wait(t.Context(), before)
			if err != nil {
				woken <- 0
				return
			}
			woken <- st.Index()
		}()
	}
	r := s.mustPropose(t, save("default", "a", "x"))
	for range cap(woken) {
		if got := <-woken; got < r.Index {
			t.Errorf("woken with index %d, want %d", got, r.Index)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, r.Index); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nothing new: %v", err)
	}
}

func TestDutiesEndWithLeadership(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	began, ended := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.LeadDuties(t.Context(), func(ctx context.Context) error {
			close(began)
			<-ctx.Done()
			close(ended)
			return ctx.Err()
		})
	}()
	<-began
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	<-ended
	if err := <-done; err != nil {
		t.Errorf("duties of a closed store: %v", err)
	}
}

func TestFailedDutyIsReturned(t *testing.T) {
	s := mustOpen(t, testConfig(t.TempDir()))
	broken := errors.New("broken")
	if err := s.LeadDuties(t.Context(), func(context.Context) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestBootstrapFailureFailsOpen(t *testing.T) {
	c := testConfig(t.TempDir())
	broken := errors.New("no randomness")
	c.Bootstrap = func(string) (*gwv1.Bootstrap, error) { return nil, broken }
	if _, err := Open(c); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	mustOpen(t, testConfig(c.Dir)) // and it can be tried again
}
