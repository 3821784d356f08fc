package raftstore

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestBallastComesAndGoesWithTheRoomThereIs(t *testing.T) {
	const mb = 1 << 20
	free, total := uint64(900*mb), uint64(1000*mb) // low: 100 MiB; critical: 30 MiB
	p := &space{measure: func(string) (uint64, uint64, error) { return free, total, nil }}
	b := newBallast(t.TempDir(), 64*mb, p, slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		what  string
		free  uint64
		bytes uint64
		given bool
	}{
		{"there is room for a twentieth of the disk", 900 * mb, 50 * mb, false},
		{"nearly full", 60 * mb, 50 * mb, false},
		{"critically full", 20 * mb, 0, true},
		{"not enough to take it back", 140 * mb, 0, false},
		{"enough", 150 * mb, 50 * mb, false},
	} {
		free = c.free
		p.forget()
		if err := b.settle(); err != nil {
			t.Fatal(err)
		}
		given := false
		select {
		case <-b.given:
			given = true
		default:
		}
		if got := b.bytes(); got != c.bytes || given != c.given {
			t.Errorf("%s: %s in reserve, given up %v; want %s, %v", c.what, mib(got), given, mib(c.bytes), c.given)
		}
	}
	if none := newBallast(t.TempDir(), 0, p, slog.Default()); none.settle() != nil || none.bytes() != 0 || none.detail() != "" {
		t.Error("a store without a ballast has one")
	}
}

// smallDisk mounts a file system of a few bytes at a directory until the test ends.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+size, "gw-test", dir).CombinedOutput()
	switch {
	case err == nil:
		t.Cleanup(func() { exec.Command("umount", "-l", dir).Run() })
	case os.Geteuid() == 0 && os.Getenv("CI") == "true":
		t.Fatalf("mount a small disk: %v %s", err, out)
	default:
		t.Skipf("a small disk needs root: mount: %v %s", err, out)
	}
}

// A disk that is full to the last byte: the snapshot that would shorten the log finds no room, gets that of the ballast, and
// the log's file has free pages for what comes next.
func TestBallastLetsAFullDiskRecover(t *testing.T) {
	dir := t.TempDir()
	smallDisk(t, dir, "64m")
	c := testConfig(filepath.Join(dir, "store"))
	c.Ballast, c.DiskLow, c.DiskCritical = 64<<20, 1, 1 // the marks would give it up before the disk is full
	c.snapshotThreshold, c.trailingLogs = 1<<30, 1      // only when it is asked for
	s := mustOpen(t, c)
	if held := s.ballast.bytes(); held < 3<<20 {
		t.Fatalf("%s in reserve", mib(held))
	}
	noise := make([]byte, 30<<10)
	for i := range 50 {
		rand.Read(noise)
		s.mustPropose(t, save("default", fmt.Sprintf("r%d", i), hex.EncodeToString(noise)))
	}
	filler, err := os.Create(filepath.Join(dir, "filler"))
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_, err = filler.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := s.Snapshot(t.Context()); err == nil {
		t.Fatal("a snapshot was written to a full disk")
	}
	deadline := time.Now().Add(30 * time.Second)
	for { // the store tries again by itself
		kept, err := s.place.snapshots.List()
		if err != nil {
			t.Fatal(err)
		}
		if len(kept) > 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no snapshot was written once the ballast had gone")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if held := s.ballast.bytes(); held != 0 {
		t.Errorf("%s are still in reserve", mib(held))
	}
	for _, check := range s.Health() {
		if check.Name == "disk_space" && !strings.HasSuffix(check.Detail, "nothing in reserve") {
			t.Errorf("health: %+v", check)
		}
	}
	s.mustPropose(t, save("default", "after", "it goes on"))
	if err := os.Truncate(filler.Name(), 0); err != nil {
		t.Fatal(err)
	}
	s.space.forget()
	if err := s.ballast.settle(); err != nil || s.ballast.bytes() == 0 {
		t.Errorf("with room again %s are in reserve, %v", mib(s.ballast.bytes()), err)
	}
}
