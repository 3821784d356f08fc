package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"gw/node/cli"
	"gw/node/fleet"
	"gw/node/gateway"
	"gw/raftstore"
	"gw/rpc"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
	"gw/ui"
)

// HubConfig says how a hub runs. Its zero value is not usable: the flags' defaults make it complete.
type HubConfig struct {
	Config            string        `placeholder:"FILE" help:"Read flags from this YAML or JSON file."`
	DataDir           string        `default:"gw-data" placeholder:"DIR" help:"Where the hub keeps its data."`
	Listen            string        `default:":50051" placeholder:"ADDR" help:"Address for edges and hubs, TLS."`
	Advertise         string        `placeholder:"HOST:PORT" help:"Where edges and other hubs reach this hub. Default: this machine's address and the port of --listen."`
	Join              string        `placeholder:"URL" help:"A hub of the cluster to join, https://HOST:PORT; passed over once this hub has joined."`
	Token             string        `env:"GW_JOIN_TOKEN" placeholder:"TOKEN" help:"Join token for hubs (gw join-token create --role hub). Needed with --join."`
	AllowTwo          bool          `help:"Give a second hub a vote although the cluster then can't take any failure."`
	AdminListen       string        `default:"127.0.0.1:7070" placeholder:"ADDR" help:"Address of the console and the admin API. Off loopback it needs --admin-cert and --admin-key."`
	AdminCert         string        `placeholder:"FILE" help:"Certificate of the console and the admin API, PEM; read again when it changes."`
	AdminKey          string        `placeholder:"FILE" help:"Its key, PEM."`
	ElectionTimeout   time.Duration `default:"1s" help:"How long hubs wait for a leader before they elect another."`
	HeartbeatInterval time.Duration `default:"30s" help:"How often edges of a small fleet report."`
	AuditLog          string        `placeholder:"FILE" help:"Append who changed what to this file, one JSON object a line. Made anew when it is moved away."`
	AdmitStreams      float64       `default:"500" placeholder:"N" help:"Streams that edges may open per second; more are told when to come again. 0: no bound."`
	AdmitCertificates float64       `default:"200" placeholder:"N" help:"Edges that may enrol or renew their certificates per second. 0: no bound."`
	AdmitFetches      float64       `default:"1000" placeholder:"N" help:"Releases that edges may fetch from the leader per second; for more they are sent to other hubs. 0: no bound."`
	Ballast           uint64        `default:"67108864" placeholder:"BYTES" help:"Room to keep in reserve on the disk, at most a twentieth of it, and to give up when it is full, so that the log can be shortened. 0: none."`
	LogLevel          slog.Level    `default:"info" help:"Least level logged: debug, info, warn or error."`

	// Now is the clock; nil: time.Now.
	Now func() time.Time `kong:"-"`
}

// Examples are shown by "gw hub --help".
func (*HubConfig) Examples() string {
	return `
gw hub
gw hub --data-dir /var/lib/gw --advertise hub-1.example:50051
gw hub --join https://hub-1.example:50051 --token gwj_...
gw hub --admin-listen :7070 --admin-cert console.pem --admin-key console.key`
}

// Run runs the hub until ctx ends.
func (c *HubConfig) Run(ctx context.Context, std *cli.Context) error {
	h, err := openHub(ctx, *c, newLogger(std.Stderr, c.LogLevel))
	if err != nil {
		return err
	}
	lean, done := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { keepLean(lean) })
	defer wg.Wait()
	defer done()
	return h.run(ctx, func() { fmt.Fprint(std.Stdout, h.welcome()) })
}

// adminUser is the name of the first user.
const adminUser = "admin"

// hub is one running hub, from the port up to its services.
type hub struct {
	config HubConfig
	log    *slog.Logger

	port        *port
	key         []byte // the cluster's
	sealer      *identity.Sealer
	ca          *identity.CA
	certificate atomic.Pointer[tls.Certificate]
	peers       http.RoundTripper  // to other hubs
	knownHubs   []*gwv1.HubAddress // told when this hub joined; the state knows better later

	metrics  *prometheus.Registry
	store    *raftstore.Store
	opened   atomic.Pointer[raftstore.Store] // store, for Raft's goroutines
	audit    *auditLog                       // nil: none is kept
	services *rpc.Hub
	plugins  *hubPlugins
	edges    *server // EdgeService and HubService, mutual TLS
	admin    *server // console and admin API

	// Set if this start made the first user.
	firstPassword string
	// Set if it did: what a first edge joins with.
	firstJoinToken string
}

// openHub builds a hub bottom-up; it serves once run is called. Whatever was opened is closed again on failure.
func openHub(ctx context.Context, c HubConfig, log *slog.Logger) (h *hub, err error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	h = &hub{config: c, log: log, metrics: prometheus.NewRegistry()}
	defer func() {
		if err != nil {
			h.close()
		}
	}()
	if err := h.checkAdminListener(); err != nil {
		return h, err
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		return h, fmt.Errorf("make the data directory: %w", err)
	}
	if h.port, err = openPort(c.Listen, log); err != nil {
		return h, err
	}
	if err := h.openStore(ctx); err != nil {
		return h, err
	}
	h.port.identify(h.ca, h.certificate.Load, h.mayBeMember)
	h.metrics.MustRegister(h.store.Collector(), h.port.turnedAway, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	if err := h.openAdmin(); err != nil {
		return h, err
	}
	if c.AuditLog != "" {
		if h.audit, err = openAuditLog(c.AuditLog, h.ca.ClusterID(), log); err != nil {
			return h, err
		}
	}
	if err := h.buildServices(); err != nil {
		return h, err
	}
	return h, h.firstStart(ctx)
}

// openStore opens the replicated store: that of a cluster this hub is part of, of one it joins now, or of a new one.
func (h *hub) openStore(ctx context.Context) error {
	dir := filepath.Join(h.config.DataDir, "raft")
	stored, err := h.readIdentity()
	if err != nil {
		return err
	}
	if stored != nil {
		if stored, err = h.withoutLog(stored, dir); err != nil {
			return err
		}
	}
	if stored == nil && h.config.Join != "" {
		return h.joinStore(ctx, dir)
	}
	key, err := identity.LoadOrCreateKey(h.keyPath())
	if err != nil {
		return fmt.Errorf("load the cluster key: %w", err)
	}
	if err := h.useKey(key); err != nil {
		return err
	}
	if stored == nil {
		return h.foundStore(dir)
	}
	if err := h.useCA(&gwv1.ClusterRecord{ClusterId: stored.ClusterId, CaCertificate: stored.CaCertificate, SealedCaKey: stored.SealedCaKey}); err != nil {
		return err
	}
	return h.reopenStore(dir)
}

// withoutLog returns stored, or nil if the hub's log is gone: then it is another hub, which has to join like any other.
func (h *hub) withoutLog(stored *gwv1.StoredHub, dir string) (*gwv1.StoredHub, error) {
	_, err := os.Stat(filepath.Join(dir, "raft.db"))
	switch {
	case !errors.Is(err, fs.ErrNotExist):
		return stored, err
	case h.config.Join == "":
		return nil, fmt.Errorf("%s has no log any more, so this is no longer the hub it was: start it with --join and --token to join as a new one", dir)
	}
	// What is left of the log names the hub it was; that one forgot its votes and must not come back. hub.pb goes last, so
	// that a start that is cut short here is repeated from here.
	if err := os.RemoveAll(dir); err != nil {
		return nil, fmt.Errorf("forget what this hub was: %w", err)
	}
	if err := os.Remove(h.storedPath()); err != nil {
		return nil, fmt.Errorf("forget what this hub was: %w", err)
	}
	return nil, nil
}

// setStore takes what raftstore.Open returned.
func (h *hub) setStore(s *raftstore.Store, err error) error {
	if err != nil {
		return err
	}
	h.store = s
	h.opened.Store(s)
	return nil
}

// memberAt returns the ID of the member at an address. Raft asks, from when the store is being opened.
func (h *hub) memberAt(address string) (string, error) {
	s := h.opened.Load()
	if s == nil {
		return "", errors.New("the store is not open yet")
	}
	return s.MemberAt(address)
}

// storeConfig is how the store is opened. A hub that has joined, or will, never founds a cluster of its own.
func (h *hub) storeConfig(dir string, join bool) raftstore.Config {
	return raftstore.Config{
		Dir:             dir,
		ElectionTimeout: h.config.ElectionTimeout,
		Stream:          raftStream{h.port.raft, h.port, h.memberAt},
		Address:         h.address(),
		Join:            join,
		Logger:          h.log.With("room", "raftstore"),
		Version:         Version(),
		Now:             h.config.Now,
		Ballast:         h.config.Ballast,
		Bootstrap: func(string) (*gwv1.Bootstrap, error) {
			b, _, err := rpc.NewBootstrap(h.sealer, h.config.Now())
			return b, err
		},
	}
}

// reopenStore opens the store of a cluster this hub is part of. The others must know who calls before there is a leader.
func (h *hub) reopenStore(dir string) error {
	id, err := raftstore.NodeID(dir)
	if err != nil {
		return err
	}
	if err := h.showIdentity(id); err != nil {
		return err
	}
	return h.setStore(raftstore.Open(h.storeConfig(dir, true)))
}

// joinStore opens an empty store that waits to be added, and gets the cluster's identity for its ID.
func (h *hub) joinStore(ctx context.Context, dir string) error {
	if h.config.Token == "" {
		return usage("--join needs --token: on a machine with the CLI, gw join-token create --role hub prints one")
	}
	if err := h.setStore(raftstore.Open(h.storeConfig(dir, true))); err != nil {
		return err
	}
	if err := h.enrol(ctx, h.store.NodeID()); err != nil {
		return err
	}
	return h.showIdentity(h.store.NodeID())
}

// foundStore opens the store of a new cluster, or of one whose founding was cut short.
func (h *hub) foundStore(dir string) error {
	if err := h.setStore(raftstore.Open(h.storeConfig(dir, false))); err != nil {
		return err
	}
	cluster := h.store.State().Cluster()
	if cluster.GetClusterId() == "" {
		return fmt.Errorf("%s is missing, and this hub's store is that of a cluster of several: start with an empty data directory and --join", h.storedPath())
	}
	if err := h.useCA(cluster); err != nil {
		return err
	}
	if err := h.saveIdentity(cluster); err != nil {
		return err
	}
	return h.showIdentity(h.store.NodeID())
}

// checkAdminListener refuses to show the console and its passwords to a network in the clear.
func (h *hub) checkAdminListener() error {
	host, _, err := net.SplitHostPort(h.config.AdminListen)
	if err != nil {
		return usage("--admin-listen %q: %v; it is HOST:PORT", h.config.AdminListen, err)
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	switch {
	case (h.config.AdminCert == "") != (h.config.AdminKey == ""):
		return usage("--admin-cert and --admin-key go together")
	case h.config.AdminCert == "" && !loopback:
		return usage("--admin-listen %s is not on loopback, so passwords would cross the network in the clear: give --admin-cert and --admin-key, or listen on 127.0.0.1 and put a TLS proxy in front", h.config.AdminListen)
	}
	return nil
}

// openAdmin binds the address of the console and the admin API.
func (h *hub) openAdmin() (err error) {
	var config *tls.Config
	if h.config.AdminCert != "" {
		cert, err := loadCertFile(h.config.AdminCert, h.config.AdminKey, h.log)
		if err != nil {
			return err
		}
		config = cert.tlsConfig()
	}
	h.admin, err = listen("admin", h.config.AdminListen, nil, config, h.log)
	return err
}

// buildServices connects store, fleet, handlers and console.
func (h *hub) buildServices() (err error) {
	h.plugins = openHubPlugins(h.store, func(plugin uint32) rpc.PluginKV { return h.services.PluginKV(plugin) }, h.log.With("room", "pluginhost"))
	h.services, err = rpc.NewHub(rpc.HubConfig{
		Store:   h.store,
		Fleet:   fleet.New(fleet.Config{Interval: h.config.HeartbeatInterval, Now: h.config.Now}),
		Sealer:  h.sealer,
		Compile: compileRecords,
		HubURLs: h.urls,
		Now:     h.config.Now,
		Logger:  h.log.With("room", "rpc"),

		CA:            h.ca.Certificate,
		Address:       h.address(),
		Version:       Version(),
		ClusterKey:    h.key,
		PeerTransport: h.peers,
		DialHub: func(ctx context.Context, address string) (net.Conn, error) {
			c, _, err := h.port.dial(ctx, address)
			return c, err
		},
		DiskFree: h.store.DiskFree,
		Plugins:  h.plugins,
		Metrics:  h.metrics,

		Membership: raftstore.MembershipConfig{AllowTwo: h.config.AllowTwo},
		Admission: rpc.Admission{
			Streams: h.config.AdmitStreams, Certificates: h.config.AdmitCertificates, Fetches: h.config.AdmitFetches,
		},
	})
	if err != nil {
		return err
	}
	api := h.services.AdminHandler()
	clients := newAdminClients(api)
	console, err := ui.New(ui.Config{
		Fleet:     clients.fleet,
		Releases:  clients.releases,
		Sessions:  clients.access,
		Audit:     clients.audit,
		Plugins:   clients.plugins,
		Principal: h.principal,
		Wake:      h.services.Wake,
		Remote:    withRemote,
		Cluster:   h.ca.ClusterID()[:8],
		Version:   Version(),
		HubURL:    h.urls()[0],
		Logger:    h.log.With("room", "ui"),
		Now:       h.config.Now,
	})
	if err != nil {
		return err
	}
	h.edges = newServer("edges", h.port.web, true, h.services.EdgeHandler(), h.log)
	h.edges.http.HTTP2 = edgesHTTP2()
	h.admin.http.Handler = splitAdmin(api, h.opsHandler(), console)
	return nil
}

// edgesHTTP2 is how a hub speaks HTTP/2 with edges and other hubs.
func edgesHTTP2() *http.HTTP2Config {
	return &http.HTTP2Config{
		// A caller that died without a word is noticed, and one that does not read is let go, within the 10 s in which an
		// edge gives up on a silent hub.
		SendPingTimeout: 5 * time.Second, PingTimeout: 5 * time.Second, WriteByteTimeout: 10 * time.Second,
		// An edge makes a call every 30 s: tables of headers seen before would take 4 KB of every connection to save it
		// some hundred bytes a minute. 0 would mean the default. Each side does without by itself: a smaller table for what
		// comes in would not hold for what a client says before it has read the settings, and break its connection.
		MaxEncoderHeaderTableSize: 1,
	}
}

// splitAdmin sends procedures to the API, what machines watch to ops, and everything else to the console.
func splitAdmin(api, ops, console http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case strings.HasPrefix(path, "/gw.v1."), strings.HasPrefix(path, "/grpc."):
			api.ServeHTTP(w, r)
		case path == "/livez", path == "/readyz", path == "/metrics":
			ops.ServeHTTP(w, r)
		default:
			console.ServeHTTP(w, r)
		}
	})
}

// principal authenticates a console session.
func (h *hub) principal(ctx context.Context, bearer string) (context.Context, string, error) {
	p, err := h.services.Authenticate(ctx, bearer)
	if err != nil {
		return ctx, "", h.services.Error(ctx, err)
	}
	return withBearer(ctx, bearer), p.User, nil
}

// address returns the host:port at which edges and other hubs reach this one.
func (h *hub) address() string {
	if h.config.Advertise != "" {
		return h.config.Advertise
	}
	bound := h.port.listener.Addr().(*net.TCPAddr)
	host := bound.IP.String()
	if bound.IP.IsUnspecified() {
		host = outwardAddress()
	}
	return net.JoinHostPort(host, fmt.Sprint(bound.Port))
}

// urls returns where edges reach the cluster: this hub first.
func (h *hub) urls() []string {
	urls := []string{"https://" + h.address()}
	for _, address := range h.memberAddresses() {
		urls = append(urls, "https://"+address)
	}
	return urls
}

// outwardAddress returns the first address of this machine that others can reach, or 127.0.0.1.
func outwardAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return "127.0.0.1"
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	return "127.0.0.1"
}

// firstStart makes the first user and a join token, if this hub alone is a cluster and there are no users.
func (h *hub) firstStart(ctx context.Context) error {
	if !h.store.Leading() {
		return nil
	}
	for range h.store.State().Users() {
		unseen, err := os.ReadFile(h.firstPasswordPath())
		if err == nil {
			h.firstPassword = string(unseen)
		}
		return nil
	}
	h.firstPassword = rand.Text()
	// Before the user is there: a start that is cut short before the password was shown has it for the next one.
	if err := writeSecretFile(h.firstPasswordPath(), []byte(h.firstPassword)); err != nil {
		return err
	}
	if err := h.setAdminPassword(ctx, h.firstPassword); err != nil {
		return err
	}
	token, err := h.joinToken(ctx)
	h.firstJoinToken = token
	return err
}

// firstPasswordPath is where the first password is until it was shown.
func (h *hub) firstPasswordPath() string { return filepath.Join(h.config.DataDir, "first-password") }

// setAdminPassword makes or changes the first user.
func (h *hub) setAdminPassword(ctx context.Context, password string) error {
	_, err := h.store.Propose(ctx, &gwv1.Command{
		Actor:      "hub/" + h.store.NodeID(),
		ProposedAt: h.config.Now().UnixNano(),
		Body: &gwv1.Command_PutUser{PutUser: &gwv1.PutUserRecord{User: &gwv1.UserRecord{
			Name: adminUser, PasswordHash: identity.HashPassword(password), Role: rpc.RoleAdmin.String(), CreatedAt: h.config.Now().UnixNano(),
		}}},
	})
	if err != nil {
		return fmt.Errorf("make the first user: %w", err)
	}
	return nil
}

// joinToken makes a join token for one edge of the default namespace.
func (h *hub) joinToken(ctx context.Context) (string, error) {
	answer, err := h.services.Access.CreateJoinToken(h.asHub(ctx), &gwv1.CreateJoinTokenRequest{})
	if err != nil {
		return "", fmt.Errorf("make a join token: %w", err)
	}
	return answer.Credential, nil
}

// asHub returns a context whose calls are made by the hub itself.
func (h *hub) asHub(ctx context.Context) context.Context {
	return rpc.WithPrincipal(ctx, rpc.Principal{User: "hub/" + h.store.NodeID(), Role: rpc.RoleAdmin})
}

// welcome is what a person wants to know once the hub serves.
func (h *hub) welcome() string {
	var b strings.Builder
	fmt.Fprintf(&b, "gw hub %s, cluster %s\n", Version(), h.ca.ClusterID()[:8])
	fmt.Fprintf(&b, "  console   %s\n", h.admin.url())
	if h.firstPassword != "" {
		fmt.Fprintf(&b, "  sign in   %s, password %s   (shown this once)\n", adminUser, h.firstPassword)
		fmt.Fprintf(&b, "  CLI       gw login %s --user %s\n", h.admin.url(), adminUser)
	}
	if h.firstJoinToken != "" {
		fmt.Fprintf(&b, "  an edge   gw edge --hub %s --join-token %s   (good for one edge, one hour)\n", h.urls()[0], h.firstJoinToken)
	} else {
		fmt.Fprintf(&b, "  an edge   gw join-token create prints the line to run\n")
	}
	return b.String()
}

// run serves until ctx ends or the store fails, then stops in the reverse order of openHub. serving is called once the
// listeners take calls.
func (h *hub) run(ctx context.Context, serving func()) error {
	defer h.close()
	stopped := ctx
	g, ctx := errgroup.WithContext(ctx)
	// Streams end with the context of their request, and must before Shutdown, which waits for them.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	for _, s := range []*server{h.edges, h.admin} {
		s.http.BaseContext = func(net.Listener) context.Context { return streams }
		g.Go(s.serve)
	}
	g.Go(func() error {
		err := h.services.Run(ctx)
		if h.store.Halted() != nil { // not by stopping: started again it would serve until it is found out again
			<-ctx.Done()
			return nil
		}
		return err
	})
	if h.audit != nil {
		g.Go(func() error { return h.audit.keep(ctx, h.store) })
	}
	g.Go(func() error { return h.plugins.run(ctx) })
	g.Go(func() error { return h.keepCertificate(ctx) })
	g.Go(func() error { return h.keepMember(ctx) })
	g.Go(func() error {
		select {
		case <-h.store.Failed():
			return fmt.Errorf("the store has failed, so the hub stops: %w", h.store.Err())
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error {
		<-ctx.Done()
		h.handOver()
		// Calls that are on their way get to their end; streams, which have none, are ended.
		time.AfterFunc(time.Second, endStreams)
		h.admin.shutdown(5 * time.Second)
		h.edges.shutdown(5 * time.Second)
		return nil
	})
	serving()
	os.Remove(h.firstPasswordPath())
	err := g.Wait()
	switch {
	case stopped.Err() != nil && (err == nil || errors.Is(err, context.Canceled)):
		return nil
	case h.store.Err() != nil:
		return fmt.Errorf("the store has failed, so the hub stops: %w", h.store.Err())
	}
	return err
}

// handOver gives leadership away while calls are still served, so that those that come now are passed on to the new
// leader. If it fails, the others elect one when this hub is gone.
func (h *hub) handOver() {
	if !h.store.Leading() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(2*h.config.ElectionTimeout, 5*time.Second))
	defer cancel()
	if err := h.store.TransferLeadership(ctx, ""); err != nil && !errors.Is(err, raftstore.ErrMembership) {
		h.log.Warn("leadership was not handed over", "error", err)
	}
}

// close closes what is open, in reverse order.
func (h *hub) close() {
	if h.admin != nil {
		h.admin.listener.Close() // already closed after run
	}
	if h.plugins != nil {
		if err := h.plugins.close(); err != nil {
			h.log.Error("the plugins were not ended cleanly", "error", err)
		}
	}
	if h.store != nil {
		if err := h.store.Close(); err != nil {
			h.log.Error("the store was not closed cleanly", "error", err)
		}
	}
	if h.port != nil {
		h.port.close()
	}
}

// compileRecords does to saved resources what an edge of the namespace will do to their release.
func compileRecords(_ context.Context, namespace string, records iter.Seq[*gwv1.ResourceRecord]) error {
	s := gateway.Snapshot{Namespace: namespace}
	for r := range records {
		digest, ok := resource.AsDigest(r.Digest)
		if !ok {
			return resource.Errors{{Kind: r.Kind, Namespace: r.Namespace, Name: r.Name, Code: resource.CodeInvalid, Message: "has no digest"}}
		}
		s.Resources = append(s.Resources, gateway.Resource{Kind: r.Kind, Name: r.Name, Digest: digest, Spec: r.Spec})
	}
	_, err := gateway.Compile(s)
	return err
}

// usage returns an error that makes the process exit with code 2.
func usage(format string, args ...any) error {
	return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf(format, args...)}
}
