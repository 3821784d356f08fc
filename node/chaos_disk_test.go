package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gw/rpc/gwv1"
)

// privileged runs a command that needs root. A test that has to do without it is skipped, but never where everything
// must be proven.
func privileged(t *testing.T, purpose, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err == nil {
		return
	}
	what := fmt.Sprintf("%s needs root: %s %s: %v %s", purpose, name, strings.Join(args, " "), err, out)
	if os.Geteuid() == 0 && os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// The disk of one hub is full, as a follower and as the leader: that hub says so, and ends at the first write that
// fails; the others go on. When there is room again it is started, and catches up.
func TestChaosDiskFull(t *testing.T) {
	t.Parallel()
	c := prepareCluster(t, nil, "--election-timeout", "500ms")
	c.place = func(h *process) {
		onLoopback(h)
		if len(c.hubs) == 3 {
			if err := os.Mkdir(h.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			privileged(t, "a small disk", "mount", "-t", "tmpfs", "-o", "size=64m", "gw-chaos", h.dir)
			t.Cleanup(func() { exec.Command("umount", "-l", h.dir).Run() })
		}
	}
	c.grow(3)
	small := c.hubs[2]
	l := c.startLoad()
	for _, role := range []string{"follower", "leader"} {
		for range rounds(1, 5) {
			c.lead(small, role == "leader")
			l.awaitAccepted(20, healed)
			small.awaitReady(http.StatusOK, healed)
			filler := nearlyFill(t, small.dir)
			c.await(healed, "it says that its disk is nearly full", func() error {
				if found := small.readyz(); !strings.Contains(found.details["disk_space"], "nearly full") {
					return fmt.Errorf("it says %v", found)
				}
				return nil
			})
			small.must(http.StatusOK, http.StatusServiceUnavailable, "disk_space")
			took := l.awaitAccepted(20, 15*time.Second)
			t.Logf("the disk of the %s is nearly full: 20 writes took %v", role, took.Round(time.Millisecond))

			c.lead(small, role == "leader")
			began := time.Now()
			// What the hub has in reserve, and what it saves by giving that up, is taken from it as well.
			c.await(30*time.Second, "it ends at a write that fails", func() error {
				fill(t, small.dir)
				select {
				case <-small.exited:
					return nil
				default:
					return errors.New("it runs on")
				}
			})
			if small.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(small.tail(), "no space left on device") {
				t.Errorf("it exited with %v\n%s", small.cmd.ProcessState, small.tail())
			}
			l.awaitAccepted(20, 15*time.Second)
			t.Logf("the disk of the %s is full: the longest time without an acknowledged write is %v", role, l.longestGap(began).Round(time.Millisecond))

			if err := os.Remove(filler); err != nil {
				t.Fatal(err)
			}
			small.start()
			c.awaitVoters(3)
			small.awaitReady(http.StatusOK, healed)
			small.must(http.StatusOK, http.StatusOK)
		}
	}
	l.judge()
}

// lead sees to it that a hub leads, or does not.
func (c *cluster) lead(h *process, yes bool) {
	c.t.Helper()
	c.await(30*time.Second, "leadership moves", func() error {
		if (c.leader() == h) == yes {
			return nil
		}
		to := h
		if !yes {
			to = c.others(h)[0]
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), callTimeout)
		defer cancel()
		_, err := c.up()[0].cluster.TransferLeadership(ctx, &gwv1.TransferLeadershipRequest{To: to.self()})
		return errors.Join(err, errors.New("asked to"))
	})
}

// nearlyFill makes a file that leaves the disk of a directory half of what a hub wants to be free, and returns its path.
func nearlyFill(t *testing.T, dir string) (path string) {
	t.Helper()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	size := int64(disk.Bavail-disk.Blocks/20) * int64(disk.Bsize)
	path = filepath.Join(dir, "filler")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// fill adds to that file until nothing is free.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "filler"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
}
