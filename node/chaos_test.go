package node

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

// The TestChaos tests do to real gw processes what happens to real ones, each under a write load whose history is
// checked (chaos_load_test.go). GW_CHAOS=long repeats every fault many times.

// rounds is how often a fault is repeated.
func rounds(short, long int) int {
	if os.Getenv("GW_CHAOS") == "long" {
		return long
	}
	return short
}

// healed is how long after the end of a fault the cluster may take until it accepts writes.
const healed = 10 * time.Second

// cluster is hubs that are processes. It belongs to one test, whose goroutine calls its methods.
type cluster struct {
	t     *testing.T
	dir   string
	hubs  []*process       // those that are, or are to be, members
	all   []*process       // those that ever were as well
	token string           // bearer token of an admin
	flags []string         // of every hub
	place func(h *process) // gives a new hub its addresses and flags
	http  *http.Client     // to the admin listeners; carries the bearer token
}

// process is one hub, on its data directory and its addresses, running or not.
type process struct {
	program
	c              *cluster
	dir            string
	address, admin string   // host:port of the TLS port; URL of the admin listener
	command, flags []string // command runs gw, its path included
	id             string   // node ID of the last start

	config  gwv1connect.ConfigServiceClient
	access  gwv1connect.AccessServiceClient
	cluster gwv1connect.ClusterServiceClient
}

// newCluster starts hubs, the first alone, and returns when all of them vote.
func newCluster(t *testing.T, hubs int, flags ...string) *cluster {
	t.Helper()
	c := prepareCluster(t, nil, flags...)
	c.grow(hubs)
	return c
}

// prepareCluster returns a cluster without hubs. Those started later end with the test. trust is for admin listeners
// over TLS; nil if there are none.
func prepareCluster(t *testing.T, trust *tls.Config, flags ...string) *cluster {
	transport := &http.Transport{
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		MaxIdleConnsPerHost: 16,
		TLSClientConfig:     trust,
	}
	c := &cluster{t: t, dir: t.TempDir(), flags: flags, place: onLoopback}
	c.http = &http.Client{Transport: &signed{c, transport}}
	t.Cleanup(func() {
		for _, h := range c.all {
			h.signal(syscall.SIGKILL)
			h.awaitExit(time.Minute)
		}
		transport.CloseIdleConnections()
		if t.Failed() {
			c.logTails()
		}
	})
	return c
}

// onLoopback gives a hub free ports of loopback.
func onLoopback(h *process) {
	admin := freePort(h.c.t)
	h.address, h.admin = freePort(h.c.t), "http://"+admin
	h.flags = []string{"--listen", h.address, "--admin-listen", admin}
}

// signed adds the bearer token to calls.
type signed struct {
	c    *cluster
	next http.RoundTripper
}

func (s *signed) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if s.c.token != "" {
		r.Header.Set("Authorization", "Bearer "+s.c.token)
	}
	return s.next.RoundTrip(r)
}

// grow starts new hubs until there are n, and waits until all vote.
func (c *cluster) grow(n int) {
	c.t.Helper()
	for len(c.hubs) < n {
		h := c.newHub()
		if len(c.hubs) == 1 {
			h.start()
			c.signIn(h)
			continue
		}
		h.start(h.joining()...)
	}
	c.awaitVoters(n)
}

// newHub returns a hub with an empty data directory that was not started yet.
func (c *cluster) newHub() *process {
	c.t.Helper()
	gw, err := exec.LookPath("gw")
	if err != nil {
		c.t.Fatal(err)
	}
	h := &process{c: c, program: program{t: c.t, home: c.dir, name: fmt.Sprintf("hub-%d", len(c.all)+1)}, command: []string{gw}}
	h.dir = filepath.Join(c.dir, h.name)
	c.hubs, c.all = append(c.hubs, h), append(c.all, h)
	c.place(h)
	h.config = gwv1connect.NewConfigServiceClient(c.http, h.admin)
	h.access = gwv1connect.NewAccessServiceClient(c.http, h.admin)
	h.cluster = gwv1connect.NewClusterServiceClient(c.http, h.admin)
	return h
}

// ports are those given to hubs of this process.
var ports = struct {
	sync.Mutex
	given map[int]bool
}{given: map[int]bool{}}

// freePort returns an address on loopback that stays free while a hub is down: it is not in the range from which
// outgoing connections take theirs.
func freePort(t *testing.T) string {
	ports.Lock()
	defer ports.Unlock()
	for range 1000 {
		n := 10000 + rand.IntN(20000)
		address := fmt.Sprintf("127.0.0.1:%d", n)
		l, err := net.Listen("tcp", address)
		if err != nil || ports.given[n] {
			continue
		}
		l.Close()
		ports.given[n] = true
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// signIn makes the test an admin, with the password that the first start printed.
func (c *cluster) signIn(h *process) {
	c.t.Helper()
	m := regexp.MustCompile(`password (\S+)`).FindStringSubmatch(h.output())
	if m == nil {
		c.t.Fatalf("%s printed no password:\n%s", h.name, h.output())
	}
	answer, err := h.access.SignIn(c.t.Context(), &gwv1.SignInRequest{User: adminUser, Password: m[1]})
	if err != nil {
		c.t.Fatal(err)
	}
	c.token = answer.BearerToken
}

// joining are the flags with which a new hub joins.
func (h *process) joining() []string {
	h.c.t.Helper()
	via := h.c.others(h)[0]
	ctx, cancel := context.WithTimeout(h.c.t.Context(), 20*time.Second)
	defer cancel()
	answer, err := via.access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{Role: "hub"})
	if err != nil {
		h.c.t.Fatal(err)
	}
	return []string{"--join", "https://" + via.address, "--token", answer.Credential}
}

// start starts the hub and returns when it answers.
func (h *process) start(flags ...string) {
	h.c.t.Helper()
	h.launch(flags...)
	h.awaitServing()
}

// launch starts the hub and does not wait for anything.
func (h *process) launch(flags ...string) {
	h.c.t.Helper()
	h.begin(nil, slices.Concat(h.command, []string{"hub", "--data-dir", h.dir}, h.flags, h.c.flags, flags)...)
}

func (h *process) awaitServing() {
	h.c.t.Helper()
	h.c.await(20*time.Second, h.name+" serves", func() error {
		if !h.running() {
			return fatal{fmt.Errorf("it exited: %v\n%s", h.done, h.tail())}
		}
		if !strings.Contains(h.output(), "an edge ") { // the last line of its welcome
			return errors.New("it has not said so")
		}
		return nil
	})
}

// fatal is an error that waiting longer does not help.
type fatal struct{ error }

// await asks again and again until there is no error. It ends the test after limit.
func (c *cluster) await(limit time.Duration, what string, try func() error) time.Duration {
	c.t.Helper()
	began := time.Now()
	for {
		err := try()
		took := time.Since(began)
		var hopeless fatal
		switch {
		case err == nil:
			return took
		case errors.As(err, &hopeless), took > limit:
			c.t.Fatalf("%s: not within %v: %v", what, took.Round(time.Millisecond), err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-c.t.Context().Done():
			c.t.Fatalf("%s: the test ended: %v", what, err)
		}
	}
}

// up are the hubs that run.
func (c *cluster) up() []*process { return c.others(nil) }

// others are the hubs that run, but for one.
func (c *cluster) others(but *process) []*process {
	var list []*process
	for _, h := range c.hubs {
		if h != but && h.running() && !h.paused {
			list = append(list, h)
		}
	}
	return list
}

// leader waits until one of the running hubs leads.
func (c *cluster) leader() *process {
	c.t.Helper()
	return c.leaderOf(c.up())
}

// leaderOf waits until one of these hubs leads.
func (c *cluster) leaderOf(hubs []*process) (leader *process) {
	c.t.Helper()
	c.await(healed, "a hub leads", func() error {
		for _, h := range hubs {
			if h.readyz().details["leader"] == "this hub leads" {
				leader = h
				return nil
			}
		}
		return errors.New("none says so")
	})
	return leader
}

// status is the cluster as a hub sees it.
func (h *process) status() (*gwv1.GetClusterStatusResponse, error) {
	ctx, cancel := context.WithTimeout(h.c.t.Context(), 10*time.Second)
	defer cancel()
	s, err := h.cluster.GetClusterStatus(ctx, &gwv1.GetClusterStatusRequest{})
	return s, err
}

// self is this hub's own ID.
func (h *process) self() string {
	h.c.t.Helper()
	if h.id == "" {
		status, err := h.staleStatus()
		if err != nil {
			h.c.t.Fatal(err)
		}
		h.id = status.AnsweredBy
	}
	return h.id
}

// staleStatus is the cluster as this very hub sees it.
func (h *process) staleStatus() (*gwv1.GetClusterStatusResponse, error) {
	ctx, cancel := context.WithTimeout(h.c.t.Context(), 10*time.Second)
	defer cancel()
	return h.cluster.GetClusterStatus(withHeader(ctx, "Gw-Consistency", "stale"), &gwv1.GetClusterStatusRequest{})
}

// withHeader returns a context whose one call is made with a header.
func withHeader(ctx context.Context, name, value string) context.Context {
	ctx, call := connect.NewClientContext(ctx)
	call.RequestHeader().Set(name, value)
	return ctx
}

// awaitVoters waits until n hubs vote and answer.
func (c *cluster) awaitVoters(n int) {
	c.t.Helper()
	c.await(40*time.Second, fmt.Sprintf("%d hubs vote", n), func() error {
		status, err := c.up()[0].status()
		if err != nil {
			return err
		}
		voters := 0
		for _, h := range status.Hubs {
			if h.Voter && h.Role != gwv1.HubRole_HUB_ROLE_UNREACHABLE {
				voters++
			}
		}
		if voters != n || int(status.FailureTolerance) != (n-1)/2 {
			return fmt.Errorf("%d do, %d may fail: %v", voters, status.FailureTolerance, status.Hubs)
		}
		return nil
	})
}

// awaitWrite returns how long it takes until a hub accepts a write.
func (c *cluster) awaitWrite(h *process, limit time.Duration) time.Duration {
	c.t.Helper()
	return c.await(limit, h.name+" accepts a write", func() error {
		ctx, cancel := context.WithTimeout(c.t.Context(), min(limit, 3*time.Second)) // as a person would try again
		defer cancel()
		_, err := h.config.ApplyResources(ctx, save(0, "probe", fmt.Sprintf("p%d", rand.Int64())))
		return err
	})
}

// awaitSame waits until all running hubs have the same state, to the byte: a backup that a hub makes without asking the
// others is its state.
func (c *cluster) awaitSame(limit time.Duration) {
	c.t.Helper()
	c.await(limit, "all hubs have the same state", func() error {
		var first [sha256.Size]byte
		for i, h := range c.up() {
			digest, err := h.digest()
			switch {
			case err != nil:
				return err
			case i == 0:
				first = digest
			case digest != first:
				return fmt.Errorf("%s has another than %s", h.name, c.up()[0].name)
			}
		}
		return nil
	})
}

// digest is the SHA-256 of this very hub's state.
func (h *process) digest() (sum [sha256.Size]byte, err error) {
	ctx, cancel := context.WithTimeout(h.c.t.Context(), 10*time.Second)
	defer cancel()
	stream, err := h.cluster.Backup(ctx, &gwv1.BackupRequest{Stale: true})
	if err != nil {
		return sum, err
	}
	defer stream.Close()
	hash := sha256.New()
	for stream.Receive() {
		hash.Write(stream.Msg().Chunk)
	}
	return [sha256.Size]byte(hash.Sum(nil)), stream.Err()
}

// value is what a hub says is saved under a name. Only a linearizable read counts, unless stale is set.
func (h *process) value(name string, stale bool) (string, error) {
	ctx, cancel := context.WithTimeout(h.c.t.Context(), callTimeout)
	defer cancel()
	if stale {
		ctx = withHeader(ctx, "Gw-Consistency", "stale")
	}
	answer, err := h.config.GetResource(ctx, &gwv1.GetResourceRequest{Kind: "API", Name: name})
	return saved(answer.GetResource()), err
}

// put saves a value through a hub, with one call that survives the loss of a leader because it has an idempotency key.
func (h *process) put(name, value string) {
	h.c.t.Helper()
	ctx, cancel := context.WithTimeout(h.c.t.Context(), callTimeout)
	defer cancel()
	ctx = withHeader(ctx, "Idempotency-Key", fmt.Sprintf("put-%d", rand.Int64()))
	if _, err := h.config.ApplyResources(ctx, save(0, name, value)); err != nil {
		h.c.t.Fatalf("save %s through %s: %v", name, h.name, err)
	}
}

// must checks what the hub says of itself: which codes, and which checks of /readyz fail.
func (h *process) must(livez, readyz int, failing ...string) {
	h.c.t.Helper()
	live, ready := h.livez(), h.readyz()
	if live.code != livez {
		h.c.t.Errorf("/livez of %s: %v, want %d", h.name, live, livez)
	}
	if ready.code != readyz || !slices.Equal(ready.failed, failing) {
		h.c.t.Errorf("/readyz of %s: %v, want %d with %v failed", h.name, ready, readyz, failing)
	}
}

// awaitReady waits until /readyz has a code; what failed is in the answer.
func (h *process) awaitReady(code int, limit time.Duration) (found health) {
	h.c.t.Helper()
	h.c.await(limit, fmt.Sprintf("/readyz of %s is %d", h.name, code), func() error {
		if found = h.readyz(); found.code != code {
			return fmt.Errorf("it is %v", found)
		}
		return nil
	})
	return found
}

// health is what /livez or /readyz said.
type health struct {
	code    int // 0: nobody answered
	failed  []string
	details map[string]string // by check
}

func (h health) String() string { return fmt.Sprintf("%d %v, failed: %v", h.code, h.details, h.failed) }

func (h *process) livez() health  { return h.ask("/livez?verbose") }
func (h *process) readyz() health { return h.ask("/readyz?verbose") }

func (h *process) ask(path string) health {
	ctx, cancel := context.WithTimeout(h.c.t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.admin+path, nil)
	if err != nil {
		h.c.t.Fatal(err)
	}
	answer, err := h.c.http.Do(r)
	if err != nil {
		return health{details: map[string]string{"error": err.Error()}}
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body) // a part of it lacks checks, which is noticed
	found := health{code: answer.StatusCode, details: map[string]string{}}
	for line := range strings.Lines(string(body)) {
		mark, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		name, detail, _ := strings.Cut(rest, ": ")
		found.details[name] = detail
		if mark == "[-]" {
			found.failed = append(found.failed, name)
		}
	}
	return found
}

// logTails shows how the hubs ended.
func (c *cluster) logTails() {
	for _, h := range c.all {
		c.t.Logf("%s (%s, %s):\n%s", h.name, h.address, h.admin, h.tail())
	}
}
