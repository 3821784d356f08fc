package node

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

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
	Listen            string        `default:":50051" placeholder:"ADDR" help:"Address for edges, TLS."`
	Advertise         []string      `placeholder:"URL" help:"Where edges reach this hub, https://HOST:PORT. Default: this machine's address and the port of --listen."`
	AdminListen       string        `default:"127.0.0.1:7070" placeholder:"ADDR" help:"Address of the console and the admin API. Off loopback it needs --admin-cert and --admin-key."`
	AdminCert         string        `placeholder:"FILE" help:"Certificate of the console and the admin API, PEM; read again when it changes."`
	AdminKey          string        `placeholder:"FILE" help:"Its key, PEM."`
	ElectionTimeout   time.Duration `default:"1s" help:"How long hubs wait for a leader before they elect another."`
	HeartbeatInterval time.Duration `default:"30s" help:"How often edges of a small fleet report."`
	LogLevel          slog.Level    `default:"info" help:"Least level logged: debug, info, warn or error."`

	// Now is the clock; nil: time.Now.
	Now func() time.Time `kong:"-"`
}

// Examples are shown by "gw hub --help".
func (*HubConfig) Examples() string {
	return `
gw hub
gw hub --data-dir /var/lib/gw --advertise https://hub-1.example:50051
gw hub --admin-listen :7070 --admin-cert console.pem --admin-key console.key`
}

// Run runs the hub until ctx ends.
func (c *HubConfig) Run(ctx context.Context, std *cli.Context) error {
	h, err := openHub(ctx, *c, newLogger(std.Stderr, c.LogLevel))
	if err != nil {
		return err
	}
	return h.run(ctx, func() { fmt.Fprint(std.Stdout, h.welcome()) })
}

// hubCertificateTTL is how long a hub's own certificate lives; it is renewed when two thirds of it have passed.
const hubCertificateTTL = 7 * 24 * time.Hour

// leadTimeout is how long a hub waits at start until there is a leader and a cluster.
const leadTimeout = 30 * time.Second

// adminUser is the name of the first user.
const adminUser = "admin"

// hub is one running hub, from the store up to its listeners.
type hub struct {
	config   HubConfig
	log      *slog.Logger
	sealer   *identity.Sealer
	store    *raftstore.Store
	ca       *identity.CA
	services *rpc.Hub

	certificate atomic.Pointer[tls.Certificate]
	edges       *server // EdgeService, mutual TLS
	admin       *server // console and admin API

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
	h = &hub{config: c, log: log}
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
	key, err := identity.LoadOrCreateKey(filepath.Join(c.DataDir, "cluster.key"))
	if err != nil {
		return h, fmt.Errorf("load the cluster key: %w", err)
	}
	if h.sealer, err = identity.NewSealer(key); err != nil {
		return h, err
	}
	if err := h.openStore(ctx); err != nil {
		return h, err
	}
	if err := h.renewCertificate(); err != nil {
		return h, err
	}
	if err := h.openListeners(); err != nil {
		return h, err
	}
	if err := h.buildServices(); err != nil {
		return h, err
	}
	return h, h.firstStart(ctx)
}

// openStore opens the replicated store and waits until it knows its cluster.
func (h *hub) openStore(ctx context.Context) (err error) {
	h.store, err = raftstore.Open(raftstore.Config{
		Dir:             filepath.Join(h.config.DataDir, "raft"),
		ElectionTimeout: h.config.ElectionTimeout,
		Logger:          h.log.With("room", "raftstore"),
		Version:         Version(),
		Now:             h.config.Now,
		Bootstrap: func(string) (*gwv1.Bootstrap, error) {
			b, _, err := rpc.NewBootstrap(h.sealer, h.config.Now())
			return b, err
		},
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, leadTimeout)
	defer cancel()
	for st := h.store.State(); ; {
		if st.Cluster().GetClusterId() != "" && h.store.Leading() {
			h.ca, err = rpc.OpenCA(h.sealer, st.Cluster())
			if err != nil {
				return fmt.Errorf("%w: is %s the key this data directory was made with?", err, filepath.Join(h.config.DataDir, "cluster.key"))
			}
			return nil
		}
		if st, err = h.store.Wait(ctx, st.Index()); err != nil {
			return fmt.Errorf("wait for the cluster to have a leader: %w", err)
		}
	}
}

func (h *hub) renewCertificate() error {
	cert, err := h.ca.IssueHub(h.store.NodeID(), h.config.Now(), hubCertificateTTL)
	if err != nil {
		return err
	}
	h.certificate.Store(&cert)
	return nil
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

// openListeners binds both addresses; their handlers are set by buildServices.
func (h *hub) openListeners() (err error) {
	var adminTLS *tls.Config
	if h.config.AdminCert != "" {
		cert, err := loadCertFile(h.config.AdminCert, h.config.AdminKey, h.log)
		if err != nil {
			return err
		}
		adminTLS = cert.tlsConfig()
	}
	edgeTLS := identity.HubTLS(h.ca.Certificate, h.ca.ClusterID(), h.certificate.Load)
	if h.edges, err = listen("edges", h.config.Listen, nil, edgeTLS, h.log); err != nil {
		return err
	}
	h.admin, err = listen("admin", h.config.AdminListen, nil, adminTLS, h.log)
	return err
}

// buildServices connects store, fleet, handlers and console.
func (h *hub) buildServices() (err error) {
	h.services, err = rpc.NewHub(rpc.HubConfig{
		Store:   h.store,
		Fleet:   fleet.New(fleet.Config{Interval: h.config.HeartbeatInterval, Now: h.config.Now}),
		Sealer:  h.sealer,
		Compile: compileRecords,
		HubURLs: h.urls,
		Now:     h.config.Now,
		Logger:  h.log.With("room", "rpc"),
	})
	if err != nil {
		return err
	}
	api := h.services.AdminHandler()
	clients := newAdminClients(api)
	console, err := ui.New(ui.Config{
		Fleet:        clients.fleet,
		Releases:     clients.releases,
		Sessions:     clients.access,
		PushProgress: clients.pushProgress,
		Principal:    h.principal,
		Wake:         h.services.Wake,
		Remote:       withRemote,
		Cluster:      h.ca.ClusterID()[:8],
		Version:      Version(),
		HubURL:       h.urls()[0],
		Logger:       h.log.With("room", "ui"),
		Now:          h.config.Now,
	})
	if err != nil {
		return err
	}
	h.edges.http.Handler = h.services.EdgeHandler()
	h.admin.http.Handler = splitAdmin(api, console)
	return nil
}

// splitAdmin sends procedures to the API and everything else to the console.
func splitAdmin(api, console http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/gw.v1.") || strings.HasPrefix(r.URL.Path, "/grpc.") {
			api.ServeHTTP(w, r)
			return
		}
		console.ServeHTTP(w, r)
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

// urls returns where edges reach this hub.
func (h *hub) urls() []string {
	if len(h.config.Advertise) > 0 {
		return h.config.Advertise
	}
	address := h.edges.listener.Addr().(*net.TCPAddr)
	host := address.IP.String()
	if address.IP.IsUnspecified() {
		host = outwardAddress()
	}
	return []string{"https://" + net.JoinHostPort(host, fmt.Sprint(address.Port))}
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

// firstStart makes the first user and a join token, if there are no users.
func (h *hub) firstStart(ctx context.Context) error {
	for range h.store.State().Users() {
		return nil
	}
	h.firstPassword = rand.Text()
	if err := h.setAdminPassword(ctx, h.firstPassword); err != nil {
		return err
	}
	token, err := h.joinToken(ctx)
	h.firstJoinToken = token
	return err
}

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
	g, ctx := errgroup.WithContext(ctx)
	// Streams end with the context of their request, and must before Shutdown, which waits for them.
	streams, endStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer endStreams()
	for _, s := range []*server{h.edges, h.admin} {
		s.http.BaseContext = func(net.Listener) context.Context { return streams }
		g.Go(s.serve)
	}
	g.Go(func() error { return h.services.Run(ctx) })
	g.Go(func() error { return h.keepCertificate(ctx) })
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
		endStreams()
		h.admin.shutdown(5 * time.Second)
		h.edges.shutdown(5 * time.Second)
		return nil
	})
	serving()
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// keepCertificate renews the hub's own certificate when two thirds of its life have passed.
func (h *hub) keepCertificate(ctx context.Context) error {
	for {
		timer := time.NewTimer(hubCertificateTTL * 2 / 3)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
			if err := h.renewCertificate(); err != nil {
				h.log.Error("the hub's certificate was not renewed", "error", err)
			}
		}
	}
}

// close closes what is open, in reverse order.
func (h *hub) close() {
	for _, s := range []*server{h.admin, h.edges} {
		if s != nil {
			s.listener.Close() // already closed after run
		}
	}
	if h.store != nil {
		if err := h.store.Close(); err != nil {
			h.log.Error("the store was not closed cleanly", "error", err)
		}
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
