package node

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
)

// network is a bridge with a network namespace per hub, in which packets to other hubs can be made to vanish. The test
// itself reaches every hub always, over the bridge.
type network struct {
	t         *testing.T
	prefix    string // of everything's name: at most 15 characters are allowed for interfaces
	hubs      int
	cert, key string
	trust     *tls.Config
}

// newNetwork makes an empty network. It is gone when the test ends.
func newNetwork(t *testing.T, dir string) *network {
	t.Helper()
	n := &network{t: t, prefix: fmt.Sprintf("gw%d", os.Getpid())}
	n.certify(dir)
	n.ip("link", "add", n.bridge(), "type", "bridge")
	t.Cleanup(func() { exec.Command("ip", "link", "del", n.bridge()).Run() })
	n.ip("address", "add", n.address(0)+"/24", "dev", n.bridge())
	n.ip("link", "set", n.bridge(), "up")
	return n
}

func (n *network) bridge() string { return n.prefix + "b" }

// address is that of a hub, or of the test: 0. The range is reserved for tests of networks.
func (n *network) address(hub int) string {
	return fmt.Sprintf("198.18.%d.%d", os.Getpid()%250, hub+1)
}

func (n *network) namespace(hub int) string { return fmt.Sprintf("%sh%d", n.prefix, hub) }

func (n *network) ip(args ...string) {
	n.t.Helper()
	privileged(n.t, "a network of one's own", "ip", args...)
}

// place puts a new hub into a namespace of its own.
func (n *network) place(h *process) {
	n.hubs++
	space, outside := n.namespace(n.hubs), fmt.Sprintf("%sv%d", n.prefix, n.hubs)
	n.ip("netns", "add", space)
	n.t.Cleanup(func() { exec.Command("ip", "netns", "del", space).Run() })
	n.ip("link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", space)
	// By itself it would be gone with the last packet that a namespace without a process still wants to send.
	n.t.Cleanup(func() { exec.Command("ip", "link", "del", outside).Run() })
	n.ip("link", "set", outside, "master", n.bridge(), "up")
	n.ip("-n", space, "address", "add", n.address(n.hubs)+"/24", "dev", "eth0")
	n.ip("-n", space, "link", "set", "eth0", "up")
	n.ip("-n", space, "link", "set", "lo", "up")

	h.command = append([]string{"ip", "netns", "exec", space}, h.command...)
	admin := n.address(n.hubs) + ":7070"
	h.address, h.admin = n.address(n.hubs)+":50051", "https://"+admin
	h.flags = []string{"--listen", h.address, "--admin-listen", admin, "--admin-cert", n.cert, "--admin-key", n.key}
}

// cut makes what one hub sends to another vanish; mend ends that. Hubs count from 1.
func (n *network) cut(from, to int) {
	n.ip("-n", n.namespace(from), "route", "replace", "blackhole", n.address(to)+"/32")
}

func (n *network) mend(from, to int) {
	n.ip("-n", n.namespace(from), "route", "del", "blackhole", n.address(to)+"/32")
}

// others calls f with every other hub's number.
func (n *network) others(hub int, f func(other int)) {
	for other := 1; other <= n.hubs; other++ {
		if other != hub {
			f(other)
		}
	}
}

// isolate cuts a hub off from all others, in both directions or only what it sends.
func (n *network) isolate(hub int, both bool) {
	n.others(hub, func(other int) {
		n.cut(hub, other)
		if both {
			n.cut(other, hub)
		}
	})
}

func (n *network) rejoin(hub int, both bool) {
	n.others(hub, func(other int) {
		n.mend(hub, other)
		if both {
			n.mend(other, hub)
		}
	})
}

// certify makes a certificate for the admin listeners of all hubs, which are not on loopback.
func (n *network) certify(dir string) {
	n.t.Helper()
	check := func(err error) {
		if err != nil {
			n.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(24 * time.Hour)}
	for hub := range 10 {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(n.address(hub)))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	check(err)
	n.cert, n.key = filepath.Join(dir, "admin.pem"), filepath.Join(dir, "admin.key")
	check(os.WriteFile(n.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	check(os.WriteFile(n.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	cert, err := x509.ParseCertificate(der)
	check(err)
	n.trust = &tls.Config{RootCAs: x509.NewCertPool()}
	n.trust.RootCAs.AddCert(cert)
}

// The leader is cut off: the others elect one and accept writes, the isolated one answers that it can't, and never with
// what it knew before; when the network heals, it takes part again.
func TestChaosPartition(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, t.TempDir())
	c := prepareCluster(t, n.trust, "--election-timeout", "500ms")
	c.place = n.place
	c.grow(3)
	l := c.startLoad()
	for i := range rounds(1, 20) {
		both := i%2 == 0
		l.awaitAccepted(20, healed)
		old := c.leader()
		number := hubNumber(c, old)
		old.put("cut", "before")
		n.isolate(number, both)
		majority := c.others(old)
		took := c.awaitWrite(majority[0], healed)
		majority[1].put("cut", "after")
		t.Logf("leader isolated (both ways: %v) → write accepted by the others: %v", both, took.Round(time.Millisecond))

		c.mustBeIsolated(old)
		n.rejoin(number, both)
		took = c.await(healed, "the isolated hub is back", func() error {
			value, err := old.value("cut", false)
			if err == nil && value != "after" {
				return fatal{fmt.Errorf("it answers %q", value)}
			}
			return err
		})
		t.Logf("healed → the isolated hub answers: %v", took.Round(time.Millisecond))
		c.awaitWrite(old, healed)
		old.awaitReady(http.StatusOK, healed)
	}
	l.judge()
}

func hubNumber(c *cluster, h *process) int {
	for i, other := range c.hubs {
		if other == h {
			return i + 1
		}
	}
	return 0
}

// mustBeIsolated checks what a former leader says that no other hub reaches: that it is alive and not ready, what it
// has to who is content with that, and to all others that it can't say, without a hint to anywhere.
func (c *cluster) mustBeIsolated(h *process) {
	c.t.Helper()
	h.awaitReady(http.StatusServiceUnavailable, healed)
	h.must(http.StatusOK, http.StatusServiceUnavailable, "leader")
	value, err := h.value("cut", false)
	if connect.CodeOf(err) != connect.CodeUnavailable || leaderHint(err) != "" {
		c.t.Errorf("isolated, it answers a read with %q, %v, hint %q", value, err, leaderHint(err))
	}
	if value, err := h.value("cut", true); err != nil || value != "before" {
		c.t.Errorf("isolated, it answers a stale read with %q, %v", value, err)
	}
	status, err := h.staleStatus()
	if err != nil || status.LeaderId != "" || !strings.Contains(strings.Join(status.Alarms, "\n"), "no majority") {
		c.t.Errorf("isolated, it says of the cluster: %v, %v", status, err)
	}
}
