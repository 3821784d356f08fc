package pluginhost

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

// checkFile makes sure that there is an executable, with the digest it must have.
func checkFile(path string, want []byte) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("there is no file %s on this machine", path)
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no file", path)
	case info.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable", path)
	case want == nil:
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if got := sum.Sum(nil); subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("%s has the SHA-256 %x, and the resource wants %x", path, got, want)
	}
	return nil
}

// groupRunner runs a process as the leader of its own group, for go-plugin. When the leader ends, so does the group.
type groupRunner struct {
	cmd            *exec.Cmd
	stdout, stderr *os.File // what the process writes; closed some time after it has ended
	writers        []*os.File
	started        atomic.Bool
	killed         atomic.Bool   // gw ended it, before it ended by itself
	exited         chan struct{} // closed when the leader has ended
	err            error         // of its end; to be read when exited is closed
}

func newGroupRunner(p *Plugin) (*groupRunner, error) {
	r := &groupRunner{cmd: exec.Command(p.Path), exited: make(chan struct{})}
	for _, name := range append([]string{"PATH", "HOME", "TMPDIR"}, p.Env...) {
		if value, ok := os.LookupEnv(name); ok {
			r.cmd.Env = append(r.cmd.Env, name+"="+value)
		}
	}
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	for _, at := range []struct {
		read **os.File
		to   *io.Writer
	}{{&r.stdout, &r.cmd.Stdout}, {&r.stderr, &r.cmd.Stderr}} {
		var w *os.File
		if *at.read, w, err = os.Pipe(); err != nil {
			r.closePipes()
			return nil, err
		}
		*at.to = w
		r.writers = append(r.writers, w)
	}
	return r, nil
}

func (r *groupRunner) closePipes() {
	for _, f := range append(r.writers, r.stdout, r.stderr) {
		if f != nil {
			f.Close()
		}
	}
}

// errGivenUp means that a process was ended before it was started.
var errGivenUp = errors.New("it is not wanted any more")

// Start starts the process and waits for its end in a goroutine that ends with it.
func (r *groupRunner) Start(context.Context) error {
	err := errGivenUp
	if !r.killed.Load() {
		err = r.cmd.Start()
	}
	if err != nil {
		r.closePipes()
		close(r.exited)
		return err
	}
	r.started.Store(true)
	if r.killed.Load() { // meanwhile, and there was no process to signal
		r.signalGroup()
	}
	for _, w := range r.writers {
		w.Close()
	}
	go func() {
		r.err = r.cmd.Wait()
		r.signalGroup() // children keep the pipes open, for which go-plugin waits
		close(r.exited)
		// A child that left the group may hold the pipes for good.
		time.AfterFunc(time.Second, func() { r.stdout.Close(); r.stderr.Close() })
	}()
	return nil
}

// killGroup ends every process of the group, at once, or keeps it from being started.
func (r *groupRunner) killGroup() {
	select {
	case <-r.exited:
	default:
		r.killed.Store(true)
	}
	r.signalGroup()
}

func (r *groupRunner) signalGroup() {
	if r.started.Load() {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL) // none may be left
	}
}

// cut reports whether gw ended the process, now that it has ended.
func (r *groupRunner) cut() bool {
	status, ok := r.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return r.killed.Load() && ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// outcome says how the process ended.
func (r *groupRunner) outcome() string {
	select {
	case <-r.exited:
		if r.err == nil {
			return "exit status 0"
		}
		return r.err.Error()
	default:
		return "it still runs"
	}
}

// Wait waits until the process has ended.
func (r *groupRunner) Wait(context.Context) error {
	<-r.exited
	return r.err
}

// Kill ends the group.
func (r *groupRunner) Kill(context.Context) error {
	r.killGroup()
	return nil
}

// Stdout, Stderr, Name and ID are what go-plugin asks about the process.
func (r *groupRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr is what it writes there.
func (r *groupRunner) Stderr() io.ReadCloser { return r.stderr }

// Name is the executable's path.
func (r *groupRunner) Name() string { return r.cmd.Path }

// ID is the process's, "" before it is started.
func (r *groupRunner) ID() string {
	if !r.started.Load() {
		return ""
	}
	return strconv.Itoa(r.cmd.Process.Pid)
}

// Diagnose has nothing to add.
func (r *groupRunner) Diagnose(context.Context) string { return "" }

// PluginToHost and HostToPlugin: both sides see the same file system.
func (r *groupRunner) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin is the way back.
func (r *groupRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
