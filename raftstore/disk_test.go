package raftstore

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// faultyDisk fails, or hangs, when it is told to.
type faultyDisk struct {
	disk
	broken atomic.Pointer[error]
	hang   chan struct{} // nil: no write hangs; else until it is closed
	stall  atomic.Pointer[stall]
	writes atomic.Int64
}

// stall is a hang that begins later.
type stall struct{ reached, release chan struct{} }

func (d *faultyDisk) hangWrites(release chan struct{}) {
	d.stall.Store(&stall{make(chan struct{}, 1), release})
}

// awaitHang waits until a write hangs.
func (d *faultyDisk) awaitHang() { <-d.stall.Load().reached }

func (d *faultyDisk) fail(err error) { d.broken.Store(&err) }

func (d *faultyDisk) fault() error {
	d.writes.Add(1)
	if d.hang != nil {
		<-d.hang
	}
	if s := d.stall.Load(); s != nil {
		select {
		case s.reached <- struct{}{}:
		default:
		}
		<-s.release
	}
	if err := d.broken.Load(); err != nil {
		return *err
	}
	return nil
}

func (d *faultyDisk) StoreLogs(l []*raft.Log) error {
	if err := d.fault(); err != nil {
		return err
	}
	return d.disk.StoreLogs(l)
}

func (d *faultyDisk) Set(k, v []byte) error {
	if err := d.fault(); err != nil {
		return err
	}
	return d.disk.Set(k, v)
}

func (d *faultyDisk) SetUint64(k []byte, v uint64) error {
	if err := d.fault(); err != nil {
		return err
	}
	return d.disk.SetUint64(k, v)
}

func mustOpenDisk(t *testing.T, path string) disk {
	t.Helper()
	d, err := openDisk(path)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A vote is two calls of Raft. Whatever a crash leaves after each of them, the vote on disk is a whole one.
func TestVoteIsWholeAfterACrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "raft.db")
	d := mustOpenDisk(t, path)
	check := func(when string, term uint64, candidate string) {
		t.Helper()
		v := &voteStore{log: &logStore{disk: d, failed: newLatch(), patience: time.Minute}}
		gotTerm, err := v.GetUint64([]byte(keyLastVoteTerm))
		if err != nil {
			t.Fatal(err)
		}
		got, err := v.Get([]byte(keyLastVoteCand))
		if err != nil {
			t.Fatal(err)
		}
		if gotTerm != term || string(got) != candidate {
			t.Errorf("%s: the vote is %d for %q, want %d for %q", when, gotTerm, got, term, candidate)
		}
	}
	crash := func() {
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		d = mustOpenDisk(t, path)
	}
	v := &voteStore{log: &logStore{disk: d, failed: newLatch(), patience: time.Minute}}
	if _, err := v.Get([]byte(keyLastVoteCand)); err == nil || err.Error() != errNotFound.Error() {
		t.Errorf("no vote yet: %v, want what Raft takes for not found", err)
	}
	steps := []struct {
		key, candidate string
		term           uint64
	}{{keyLastVoteTerm, "", 4}, {keyLastVoteCand, "one", 0}, {keyLastVoteTerm, "", 5}}
	for _, s := range steps {
		var err error
		if s.candidate == "" {
			err = v.SetUint64([]byte(s.key), s.term)
		} else {
			err = v.Set([]byte(s.key), []byte(s.candidate))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	check("before the crash", 4, "one")
	crash()
	check("after a crash between term and candidate", 4, "one")
	v = &voteStore{log: &logStore{disk: d, failed: newLatch(), patience: time.Minute}}
	if err := v.Set([]byte(keyLastVoteCand), []byte("two")); err == nil {
		t.Error("a candidate without its term was taken")
	}
	if err := v.SetUint64([]byte(keyLastVoteTerm), 5); err != nil {
		t.Fatal(err)
	}
	if err := v.Set([]byte(keyLastVoteCand), []byte("two")); err != nil {
		t.Fatal(err)
	}
	crash()
	check("after the whole vote", 5, "two")
	d.Close()
}

func TestFirstDiskErrorIsTheLastWrite(t *testing.T) {
	d := &faultyDisk{disk: mustOpenDisk(t, filepath.Join(t.TempDir(), "raft.db"))}
	defer d.Close()
	s := &logStore{disk: d, failed: newLatch(), patience: time.Minute}
	entry := &raft.Log{Index: 1, Term: 1, Data: []byte("x")}
	if err := s.StoreLog(entry); err != nil {
		t.Fatal(err)
	}
	broken := errors.New("input/output error")
	d.fail(broken)
	if err := s.StoreLog(&raft.Log{Index: 2}); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	d.broken.Store(nil) // the disk says it is well again
	writes := d.writes.Load()
	if err := s.StoreLog(&raft.Log{Index: 2}); !errors.Is(err, broken) {
		t.Errorf("a write after the error: got %v, want %v", err, broken)
	}
	v := &voteStore{log: s}
	if err := v.SetUint64([]byte(keyLastVoteTerm), 9); err != nil {
		t.Errorf("hold a term: %v", err)
	}
	if err := v.Set([]byte(keyLastVoteCand), []byte("x")); !errors.Is(err, broken) {
		t.Errorf("a vote after the error: got %v, want %v", err, broken)
	}
	if err := v.SetUint64([]byte(keyCurrentTerm), 9); err != nil {
		t.Errorf("Raft would panic: %v", err)
	}
	if got := d.writes.Load(); got != writes {
		t.Errorf("%d writes reached the disk after the error", got-writes)
	}
	var l raft.Log
	if err := s.GetLog(1, &l); err != nil || !bytes.Equal(l.Data, entry.Data) {
		t.Errorf("what was written can't be read: %q, %v", l.Data, err)
	}
}

func TestDiskErrorFailsTheStore(t *testing.T) {
	c := testConfig(t.TempDir())
	var d *faultyDisk
	c.wrapDisk = func(inner disk) disk { d = &faultyDisk{disk: inner}; return d }
	s := mustOpen(t, c)
	s.mustPropose(t, save("default", "kept", "x"))
	broken := errors.New("input/output error")
	d.fail(broken)
	if _, err := s.Propose(t.Context(), save("default", "lost", "x")); !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("Propose on a broken disk: %v", err)
	}
	<-s.Failed()
	if !errors.Is(s.Err(), broken) || !strings.Contains(s.Err().Error(), "write the log") {
		t.Errorf("Err: %v", s.Err())
	}
	if _, err := s.Wait(t.Context(), 1<<60); !errors.Is(err, ErrClosed) || !errors.Is(err, broken) {
		t.Errorf("Wait on a failed store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Logf("close: %v", err)
	}
	c.wrapDisk = nil
	s = mustOpen(t, c)
	if _, ok := s.State().Resource("API", "default", "kept"); !ok {
		t.Error("the acknowledged write is lost")
	}
}

func TestHungDiskFailsTheStore(t *testing.T) {
	d := &faultyDisk{disk: mustOpenDisk(t, filepath.Join(t.TempDir(), "raft.db")), hang: make(chan struct{})}
	defer d.Close()
	s := &logStore{disk: d, failed: newLatch(), patience: time.Millisecond}
	done := make(chan error, 1)
	go func() { done <- s.StoreLog(&raft.Log{Index: 1}) }()
	<-s.failed.done
	close(d.hang)
	if err := <-done; err == nil || !strings.Contains(err.Error(), "has not answered") {
		t.Errorf("the write that came too late: %v, want an error", err)
	}
}
