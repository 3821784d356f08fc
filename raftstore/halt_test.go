package raftstore

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

// A hub that has diverged stays out of its cluster when its process is started again, and goes on to say why.
func TestHaltedHubIsStillHaltedAfterARestart(t *testing.T) {
	hubs := three(t)
	victim := hubs[2]
	write(t, "before", "x", hubs[0])
	victim.Halt("it has diverged")
	if err := victim.Close(); err != nil {
		t.Fatal(err)
	}
	c := victim.config
	c.Stream, c.Address = listen(t, "127.0.0.1:0"), ""
	s := mustOpen(t, c)
	if err := s.Halted(); !errors.Is(err, ErrHalted) || !strings.Contains(err.Error(), "it has diverged") {
		t.Errorf("Halted: %v", err)
	}
	if live, ready := failing(s); len(live) != 0 || len(ready) == 0 || ready[0] != "serving" {
		t.Errorf("failing %q and %q, want serving among the latter", live, ready)
	}
	if _, err := s.Propose(t.Context(), save("default", "a", "x")); !errors.Is(err, ErrHalted) {
		t.Errorf("Propose: %v", err)
	}
	if _, err := s.Read(t.Context()); !errors.Is(err, ErrHalted) {
		t.Errorf("Read: %v", err)
	}
	if m, err := s.Members(); err != nil || !isMember(m, s.id) {
		t.Errorf("the members it last knew: %v, %v", m, err)
	}
	if conn, err := c.Stream.DialHub(within(t, time.Second), c.Stream.Addr().String()); err == nil {
		conn.Close()
		t.Error("it can be reached")
	}
	// One of the two others goes: the halted hub's vote is not there to make up for it.
	if err := hubs[1].Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no leader without it", func() bool { return !hubs[0].Leading() })
	if _, err := Recover(c.Dir, RecoverConfig{Confirmed: true}); err == nil {
		t.Error("it was recovered while it was open")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(c.Dir, RecoverConfig{Confirmed: true, Logger: c.Logger}); !errors.Is(err, ErrHalted) {
		t.Errorf("recover: %v", err)
	}
	if err := os.RemoveAll(c.Dir); err != nil {
		t.Fatal(err)
	}
	c.Stream, c.Join = listen(t, "127.0.0.1:0"), true
	if err := mustOpen(t, c).Halted(); err != nil {
		t.Errorf("in an empty directory: %v", err)
	}
}

// A lone voter would elect itself.
func TestHaltedLoneHubDoesNotLeadAfterARestart(t *testing.T) {
	c := testConfig(t.TempDir())
	s := mustOpen(t, c)
	s.mustPropose(t, save("default", "a", "x"))
	term := s.Term()
	s.Halt("of a test")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		s = mustOpen(t, c)
		if s.Leading() || s.Term() != term || s.Halted() == nil {
			t.Errorf("leading %v in term %d, which was %d; halted: %v", s.Leading(), s.Term(), term, s.Halted())
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
