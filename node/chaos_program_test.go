package node

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// program is a gw process that is started, ended, paused and started again. It belongs to one test, whose goroutine calls
// its methods.
type program struct {
	t          *testing.T
	home, name string // HOME, where its output is kept too, under its name

	cmd    *exec.Cmd     // of the last start
	exited chan struct{} // closed when it has
	done   error         // what Wait said; set when exited is closed
	paused bool
}

// begin starts the process, with more environment than this one has, and does not wait for anything.
func (p *program) begin(env []string, command ...string) {
	p.t.Helper()
	if p.running() {
		p.t.Fatalf("%s runs already", p.name)
	}
	p.cmd, p.exited, p.paused = exec.Command(command[0], command[1:]...), make(chan struct{}), false
	p.cmd.Env = append(append(os.Environ(), "HOME="+p.home), env...)
	// Files, not pipes: nothing of this process has to live for that one to go on.
	out, err := os.Create(p.path(".out"))
	if err != nil {
		p.t.Fatal(err)
	}
	defer out.Close()
	log, err := os.OpenFile(p.path(".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = out, log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, exited chan struct{}) { // ends with the process, which ends with the test
		p.done = cmd.Wait()
		close(exited)
	}(p.cmd, p.exited)
}

func (p *program) path(suffix string) string { return filepath.Join(p.home, p.name+suffix) }

// output is what the last start printed, log is what all of them logged.
func (p *program) output() string { return read(p.path(".out")) }
func (p *program) log() string    { return read(p.path(".log")) }
func (p *program) tail() string   { s := p.log(); return s[max(0, len(s)-3000):] }

func read(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

func (p *program) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

func (p *program) signal(s syscall.Signal) {
	if p.running() {
		p.cmd.Process.Signal(s) // an error means that it is gone
	}
}

// kill is kill -9.
func (p *program) kill() {
	p.t.Helper()
	p.signal(syscall.SIGKILL)
	p.awaitExit(20 * time.Second)
}

// stop asks the process to end, and returns its exit code.
func (p *program) stop() int {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	p.awaitExit(20 * time.Second)
	return p.cmd.ProcessState.ExitCode()
}

// awaitExit waits until the process has ended, by itself or not.
func (p *program) awaitExit(limit time.Duration) {
	p.t.Helper()
	if p.cmd == nil {
		return
	}
	select {
	case <-p.exited:
	case <-time.After(limit):
		p.t.Fatalf("%s runs on after %v\n%s", p.name, limit, p.tail())
	}
}

// pause stops the process where it is; resume lets it go on.
func (p *program) pause()  { p.signal(syscall.SIGSTOP); p.paused = true }
func (p *program) resume() { p.signal(syscall.SIGCONT); p.paused = false }
