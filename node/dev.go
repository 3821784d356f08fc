package node

import (
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	"gw/node/cli"
	"gw/node/sample"
	"gw/rpc/gwv1"
	"gw/rpc/identity"
	"gw/rpc/resource"
)

// DevConfig says how a development process runs: a hub, an edge and a sample upstream, on loopback.
type DevConfig struct {
	Config         string     `placeholder:"FILE" help:"Read flags from this YAML or JSON file."`
	Data           string     `default:"gw-dev" placeholder:"DIR" help:"Where everything is kept, dev.json with addresses and credentials among it."`
	AdminListen    string     `default:"127.0.0.1:7070" placeholder:"ADDR" help:"Address of the console and the admin API."`
	HubListen      string     `default:"127.0.0.1:50051" placeholder:"ADDR" help:"Address for edges."`
	EdgeListen     string     `default:"127.0.0.1:8080" placeholder:"ADDR" help:"Address callers are served on."`
	OpsListen      string     `default:"127.0.0.1:9090" placeholder:"ADDR" help:"Address of the edge's /livez, /readyz and /metrics."`
	UpstreamListen string     `default:"127.0.0.1:8081" placeholder:"ADDR" help:"Address of the sample upstream."`
	Hubs           int        `default:"1" help:"Hubs to run; all but the first are processes of their own."`
	Edges          int        `default:"1" help:"Edges to run; all but the first are processes of their own."`
	Plugins        bool       `help:"Build the example plugins with the Go toolchain and run them: a cache for LLMs and its statistics, an audit log, alerts. They stay in the configuration."`
	LogLevel       slog.Level `default:"warn" help:"Least level logged: debug, info, warn or error."`

	// Now is the clock; nil: time.Now.
	Now func() time.Time `kong:"-"`
}

// Examples are shown by "gw dev --help".
func (*DevConfig) Examples() string {
	return `
gw dev
gw dev --hubs 3 --edges 3
gw dev --plugins
gw dev --data ./try --edge-listen 127.0.0.1:8888`
}

// Run runs the development process until ctx ends.
func (c *DevConfig) Run(ctx context.Context, std *cli.Context) error {
	return runDev(ctx, *c, std.Stdout, newLogger(std.Stderr, c.LogLevel))
}

// devFile is dev.json: how to reach a development process, for programs.
type devFile struct {
	Console       string `json:"console"`
	AdminToken    string `json:"admin_token"`
	AdminPassword string `json:"admin_password"`
	Edge          string `json:"edge"`
	AppToken      string `json:"app_token"`
	Ops           string `json:"ops"`
}

// The sample configuration: %s stands for the sample upstream's URL.
//
//go:embed sample/gw.yaml
var sampleConfiguration string

const (
	sampleSecret = "sample-vendor-key"
	sampleApp    = "demo"
)

// dev is one development process while it starts.
type dev struct {
	config    DevConfig
	log       *slog.Logger
	vendorKey string
	upstream  *server
	hub       *hub
	edge      *edge
	file      devFile
	children  []child
}

func runDev(ctx context.Context, c DevConfig, stdout io.Writer, log *slog.Logger) error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if _, err := os.Stat(filepath.Join(c.Data, "hub")); err == nil && c.Hubs > 1 {
		return usage("several hubs are started afresh: delete %s or give another directory with --data", c.Data)
	}
	d := &dev{config: c, log: log, vendorKey: rand.Text()}
	if err := d.readFile(); err != nil {
		return err
	}
	if c.Plugins {
		if err := d.buildPlugins(ctx); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	err := d.startHub(ctx, g)
	if err == nil {
		err = d.configure(d.hub.asHub(ctx))
	}
	if err == nil {
		err = d.startEdge(ctx, g)
	}
	if err == nil {
		err = d.awaitRelease(d.hub.asHub(ctx))
	}
	if err == nil {
		err = d.startMore(ctx, g)
	}
	if err == nil {
		err = d.writeFile()
	}
	if err == nil {
		fmt.Fprint(stdout, d.welcome()+d.describePlugins()+d.describeChildren())
	}
	g.Go(func() error { return err })
	return g.Wait()
}

// startHub starts the sample upstream and the hub.
func (d *dev) startHub(ctx context.Context, g *errgroup.Group) (err error) {
	d.upstream, err = listen("sample upstream", d.config.UpstreamListen, sample.Handler(d.vendorKey), nil, d.log)
	if err != nil {
		return inUse(err, "--upstream-listen")
	}
	g.Go(d.upstream.serve)
	g.Go(func() error {
		<-ctx.Done()
		d.upstream.shutdown(time.Second)
		return nil
	})
	d.hub, err = openHub(ctx, HubConfig{
		DataDir: filepath.Join(d.config.Data, "hub"), Listen: d.config.HubListen, AdminListen: d.config.AdminListen,
		ElectionTimeout: time.Second, HeartbeatInterval: 10 * time.Second, Now: d.config.Now,
	}, d.log.With("process", "hub"))
	if err != nil {
		return inUse(err, "--admin-listen and --hub-listen")
	}
	serving := make(chan struct{})
	g.Go(func() error { return d.hub.run(ctx, func() { close(serving) }) })
	<-serving
	return nil
}

// configure saves and pushes the sample configuration, and makes what people and programs sign in and call with.
func (d *dev) configure(ctx context.Context) error {
	s := d.hub.services
	steps := []func() error{
		func() error {
			_, err := s.Access.PutSecret(ctx, &gwv1.PutSecretRequest{Name: sampleSecret, Value: d.vendorKey})
			return err
		},
		func() error {
			request, err := d.resources()
			if err == nil {
				_, err = s.Config.ApplyResources(ctx, request)
			}
			return err
		},
		func() error {
			_, err := s.Releases.Push(ctx, &gwv1.PushRequest{Note: "the sample configuration"})
			return err
		},
		func() error { return d.signIn(ctx) },
		func() error { return d.makeAppToken(ctx) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("set up the sample: %w", err)
		}
	}
	return nil
}

// resources returns the sample configuration as a request.
func (d *dev) resources() (*gwv1.ApplyResourcesRequest, error) {
	text := strings.ReplaceAll(sampleConfiguration, "%s", d.upstream.url())
	if d.config.Plugins {
		plugins, err := d.pluginResources()
		if err != nil {
			return nil, err
		}
		text += "---\n" + plugins
	}
	docs, err := resource.Parse("sample", []byte(text))
	if err != nil {
		return nil, err // a strange data directory, most likely: the rest is read by a test
	}
	req := &gwv1.ApplyResourcesRequest{}
	for _, doc := range docs {
		req.Resources = append(req.Resources, doc.Proto())
	}
	return req, nil
}

// signIn makes an admin token; if the password that dev.json knows is not the user's any more, it sets a new one.
func (d *dev) signIn(ctx context.Context) error {
	if d.hub.firstPassword != "" {
		d.file.AdminPassword = d.hub.firstPassword
	}
	req := &gwv1.SignInRequest{User: adminUser, Password: d.file.AdminPassword, Ttl: durationpb.New(90 * 24 * time.Hour)}
	if user, ok := d.hub.store.State().User(adminUser); !ok || !identity.VerifyPassword(user.PasswordHash, req.Password) {
		req.Password = rand.Text()
		if err := d.hub.setAdminPassword(ctx, req.Password); err != nil {
			return err
		}
		d.file.AdminPassword = req.Password
	}
	answer, err := d.hub.services.Access.SignIn(ctx, req)
	if err != nil {
		return err
	}
	d.file.AdminToken = answer.BearerToken
	return nil
}

// makeAppToken makes an app that may call everything and a token of it, unless dev.json has one that still works.
func (d *dev) makeAppToken(ctx context.Context) error {
	access := d.hub.services.Access
	if _, ok := d.hub.store.State().App(resource.Default, sampleApp); !ok {
		_, err := access.CreateApp(ctx, &gwv1.CreateAppRequest{App: &gwv1.App{Name: sampleApp, Owner: "gw dev", Targets: []string{"*"}}})
		if err != nil {
			return err
		}
	}
	hash := identity.HashCredential(d.file.AppToken)
	if token, ok := d.hub.store.State().TokenByHash(hash[:]); ok && !token.Revoked {
		return nil
	}
	answer, err := access.CreateToken(ctx, &gwv1.CreateTokenRequest{App: sampleApp, Note: "made by gw dev"})
	if err != nil {
		return err
	}
	d.file.AppToken = answer.Credential
	return nil
}

func (d *dev) startEdge(ctx context.Context, g *errgroup.Group) error {
	joinToken, err := d.hub.joinToken(ctx)
	if err != nil {
		return err
	}
	c := EdgeConfig{
		DataDir: filepath.Join(d.config.Data, "edge"), ID: "dev-edge", Hub: []string{d.hub.urls()[0]}, JoinToken: joinToken,
		Listen: d.config.EdgeListen, OpsListen: d.config.OpsListen, OfflineGrace: 24 * time.Hour, TokenTTL: 5 * time.Minute,
		MaxRequestBody: 64 << 20, AccessLog: filepath.Join(d.config.Data, "access.log"), Now: d.config.Now,
	}
	d.edge, err = openEdge(ctx, c, io.Discard, d.log.With("process", "edge"))
	if err != nil {
		return inUse(err, "--edge-listen and --ops-listen")
	}
	g.Go(func() error { return d.edge.run(ctx, func() {}) })
	return nil
}

// awaitRelease waits until the edge serves its target.
func (d *dev) awaitRelease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for revision := uint64(0); ; {
		answer, err := d.hub.services.Fleet.GetEdge(ctx, &gwv1.GetEdgeRequest{Id: "dev-edge"})
		switch {
		case err == nil && answer.Edge.ApplyError != nil:
			return fmt.Errorf("the edge can't load the sample configuration: %s", answer.Edge.ApplyError.Message)
		case err == nil && answer.Edge.Sync == gwv1.Sync_SYNC_IN_SYNC && answer.Edge.Connection == gwv1.Connection_CONNECTION_CONNECTED:
			return nil
		}
		if revision, err = d.hub.services.Wake(ctx, revision); err != nil {
			return fmt.Errorf("wait for the edge to load the sample configuration: %w", err)
		}
	}
}

func (d *dev) filePath() string { return filepath.Join(d.config.Data, "dev.json") }

// readFile takes over the credentials of a former run, if there was one.
func (d *dev) readFile() error {
	if err := os.MkdirAll(d.config.Data, 0o700); err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	b, err := os.ReadFile(d.filePath())
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = json.Unmarshal(b, &d.file)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w; delete it to get new credentials", d.filePath(), err)
	}
	return nil
}

// writeFile writes dev.json whole or not at all, for its owner only.
func (d *dev) writeFile() error {
	d.file.Console, d.file.Edge = d.hub.admin.url(), d.edge.callers.url()
	if d.edge.ops != nil {
		d.file.Ops = d.edge.ops.url()
	}
	b, err := json.MarshalIndent(d.file, "", "  ")
	if err != nil {
		return err
	}
	temp := d.filePath() + ".tmp"
	if err := os.WriteFile(temp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write dev.json: %w", err)
	}
	return os.Rename(temp, d.filePath())
}

func (d *dev) welcome() string {
	return fmt.Sprintf(`gw dev %s: a hub, an edge and a sample upstream are running; Ctrl-C stops them.

  console   %s    sign in as %s, password %s
  edge      %s    ops %s
  CLI       export GW_ADDR=%s GW_TOKEN=%s
  details   %s

Call the sample model through the edge:

  curl -s %s/v1/chat/completions -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' -d '{"model":"sample/%s","messages":[{"role":"user","content":"hello"}]}'

`, Version(), d.file.Console, adminUser, d.file.AdminPassword, d.file.Edge, d.file.Ops, d.file.Console, d.file.AdminToken,
		d.filePath(), d.file.Edge, d.file.AppToken, sample.ChatModel)
}

// inUse adds which flag helps when a port is taken.
func inUse(err error, flags string) error {
	if strings.Contains(err.Error(), "address already in use") {
		return fmt.Errorf("%w: choose another with %s (port 0 picks a free one)", err, flags)
	}
	return err
}
