package fleetbench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"gw/rpc/gwv1"
)

// startLimit is how long a hub may take to serve, and a cluster to have its votes.
const startLimit = 30 * time.Second

// hubs is a cluster of processes on loopback, in a temporary directory.
type hubs struct {
	dir     string
	program string
	flags   []string
	token   atomic.Pointer[string] // bearer token of the first user
	http    *http.Client           // sends it
	admin   *admin                 // of the first hub that lives
	list    []*hub
}

// hub is one process on its ports and its directory.
type hub struct {
	of             *hubs
	name           string
	address, admin string // host:port of the TLS port; URL of the admin API
	api            *admin
	cmd            *exec.Cmd     // of the last start
	exited         chan struct{} // closed when it has
}

// startHubs starts n hubs, the first alone, and waits until all vote. The caller stops what is returned, with an error
// too.
func startHubs(ctx context.Context, program string, n int, flags []string) (*hubs, error) {
	dir, err := os.MkdirTemp("", "gw-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for hubs: %w", err)
	}
	h := &hubs{dir: dir, program: program, flags: flags}
	h.http = &http.Client{Transport: &signed{h, &http.Transport{MaxIdleConnsPerHost: 8}}}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(n)*startLimit)
	defer cancel()
	for i := range n {
		if err := h.add(ctx, i); err != nil {
			return h, err
		}
	}
	h.admin = h.list[0].api
	return h, h.awaitVoters(ctx)
}

// signed adds the bearer token to calls.
type signed struct {
	hubs *hubs
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (s *signed) RoundTrip(r *http.Request) (*http.Response, error) {
	if token := s.hubs.token.Load(); token != nil {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+*token)
	}
	return s.next.RoundTrip(r)
}

// add starts another hub.
func (h *hubs) add(ctx context.Context, i int) error {
	k := &hub{of: h, name: fmt.Sprintf("hub-%d", i+1)}
	web, err := freePort()
	if err != nil {
		return err
	}
	if k.address, err = freePort(); err != nil {
		return err
	}
	k.admin = "http://" + web
	k.api = newAdmin(h.http, k.admin)
	var joining []string
	if i > 0 {
		answer, err := h.list[0].api.access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{Role: "hub"})
		if err != nil {
			return fmt.Errorf("make a join token for %s: %w", k.name, err)
		}
		joining = []string{"--join", "https://" + h.list[0].address, "--token", answer.Credential}
	}
	h.list = append(h.list, k)
	if err := k.start(ctx, joining...); err != nil {
		return err
	}
	if i > 0 {
		return nil
	}
	if err := k.signIn(ctx); err != nil {
		return err
	}
	// The memory that hashing passwords has taken would hide what edges take: start afresh.
	k.kill()
	return k.start(ctx)
}

// freePort returns an address on loopback that stays free while a hub is down: it is below the range from which
// outgoing connections, of which there are many, take theirs.
func freePort() (string, error) {
	for range 100 {
		address := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000))
		if l, err := net.Listen("tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", errors.New("no port is free on loopback")
}

// start starts the process and returns when it serves.
func (k *hub) start(ctx context.Context, flags ...string) error {
	args := slices.Concat([]string{"hub", "--data-dir", filepath.Join(k.of.dir, k.name), "--listen", k.address,
		"--admin-listen", strings.TrimPrefix(k.admin, "http://"), "--log-level", "warn"}, k.of.flags, flags)
	k.cmd, k.exited = exec.Command(k.of.program, args...), make(chan struct{})
	k.cmd.SysProcAttr = childAttributes()
	k.cmd.Env = append(os.Environ(), "HOME="+k.of.dir)
	// Files, not pipes: a hub never waits for this process.
	out, err := os.Create(k.path(".out"))
	if err != nil {
		return fmt.Errorf("start %s: %w", k.name, err)
	}
	defer out.Close()
	log, err := os.OpenFile(k.path(".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", k.name, err)
	}
	defer log.Close()
	k.cmd.Stdout, k.cmd.Stderr = out, log
	if err := k.cmd.Start(); err != nil {
		close(k.exited)
		return fmt.Errorf("start %s: %w", k.name, err)
	}
	raise(k.cmd.Process.Pid)
	go func(cmd *exec.Cmd, exited chan struct{}) { // kill waits for it
		_ = cmd.Wait() // it is told by the log why it ended
		close(exited)
	}(k.cmd, k.exited)
	return k.awaitServing(ctx)
}

func (k *hub) path(suffix string) string { return filepath.Join(k.of.dir, k.name+suffix) }

// tail is the end of what the hub printed and logged.
func (k *hub) tail() string {
	out, _ := os.ReadFile(k.path(".out")) // what can't be read can't be shown
	log, _ := os.ReadFile(k.path(".log"))
	all := string(out) + string(log)
	return all[max(0, len(all)-2000):]
}

// awaitServing waits for the last line of the hub's welcome.
func (k *hub) awaitServing(ctx context.Context) error {
	err := poll(ctx, startLimit, func() error {
		out, err := os.ReadFile(k.path(".out"))
		switch {
		case err != nil:
			return err
		case !k.running():
			return errors.New("it exited")
		case !strings.Contains(string(out), "an edge "):
			return errors.New("it has not said that it serves")
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("start %s: %w\n%s", k.name, err, k.tail())
	}
	return nil
}

func (k *hub) running() bool {
	select {
	case <-k.exited:
		return false
	default:
		return true
	}
}

var firstPassword = regexp.MustCompile(`sign in\s+(\S+), password (\S+)`)

// signIn takes the password that the first start printed.
func (k *hub) signIn(ctx context.Context) error {
	out, err := os.ReadFile(k.path(".out"))
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	m := firstPassword.FindSubmatch(out)
	if m == nil {
		return fmt.Errorf("sign in: %s printed no password", k.name)
	}
	answer, err := k.api.access.SignIn(ctx, &gwv1.SignInRequest{User: string(m[1]), Password: string(m[2])})
	if err != nil {
		return fmt.Errorf("sign in: %w", err)
	}
	k.of.token.Store(&answer.BearerToken)
	return nil
}

// awaitVoters waits until every hub votes and answers.
func (h *hubs) awaitVoters(ctx context.Context) error {
	return poll(ctx, startLimit, func() error {
		status, err := h.admin.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
		if err != nil {
			return fmt.Errorf("ask for the cluster: %w", err)
		}
		voters := 0
		for _, s := range status.Hubs {
			if s.Voter && s.Role != gwv1.HubRole_HUB_ROLE_UNREACHABLE {
				voters++
			}
		}
		if voters != len(h.list) {
			return fmt.Errorf("%d of %d hubs vote", voters, len(h.list))
		}
		return nil
	})
}

// leader returns the hub that leads.
func (h *hubs) leader(ctx context.Context) (leader *hub, err error) {
	err = poll(ctx, startLimit, func() error {
		status, err := h.admin.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
		if err != nil {
			return fmt.Errorf("ask who leads: %w", err)
		}
		for _, s := range status.Hubs {
			for _, k := range h.list {
				if s.Role == gwv1.HubRole_HUB_ROLE_LEADER && s.Address == k.address {
					leader = k
					return nil
				}
			}
		}
		return errors.New("no hub leads")
	})
	return leader, err
}

// kill is kill -9; it waits until the process is gone.
func (k *hub) kill() {
	if k.cmd == nil || k.cmd.Process == nil {
		return
	}
	_ = k.cmd.Process.Kill() // it may be gone already
	<-k.exited
}

// stop ends all hubs and removes what they kept.
func (h *hubs) stop() error {
	for _, k := range h.list {
		if k.cmd != nil && k.cmd.Process != nil {
			_ = k.cmd.Process.Signal(syscall.SIGKILL) // nothing of it is to be kept
		}
	}
	for _, k := range h.list {
		k.kill()
	}
	h.http.CloseIdleConnections()
	if err := os.RemoveAll(h.dir); err != nil {
		return fmt.Errorf("remove the hubs' directory: %w", err)
	}
	return nil
}

// poll asks until there is no error, at most for limit.
func poll(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		}
	}
}
