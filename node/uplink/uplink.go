// Package uplink owns the edge's side of the conversation with the hubs: it enrols, follows, beats, fetches and asks about
// tokens.
//
// Run drives six loops. follow holds the Watch stream and notes what it is told; fetch brings the serving table to the
// newest target noted; beat reports; drain brings the payloads of plugins;
// renew keeps the certificate young; keepAccess saves how far
// access changes were followed. They meet in small pieces of state under one
// mutex and wake each other through channels of capacity one, so what is lost between two of them is at most a wake-up
// that the next tick repeats. Tokens, the token cache, is asked by requests and told by follow.
package uplink

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Store is the part of the edge's disk that Uplink uses. Whatever fails to load is taken as absent.
type Store interface {
	// Identity returns who the edge is; any error: it has to enrol.
	Identity() (*gwv1.StoredIdentity, error)
	// SaveIdentity saves who the edge is, and forgets an enrolment with its key.
	SaveIdentity(id *gwv1.StoredIdentity) error
	// Enrolment returns what the edge enrols with; any error: nothing is under way.
	Enrolment() (*gwv1.StoredEnrolment, error)
	SaveEnrolment(e *gwv1.StoredEnrolment) error
	// LoadRelease returns a verified generation, 0 the newest: what a manifest's difference is applied to.
	LoadRelease(ctx context.Context, generation int) (*gwv1.StoredRelease, []*gwv1.Blob, error)
	Access(ctx context.Context) (*gwv1.StoredAccess, error)
	SaveAccess(ctx context.Context, a *gwv1.StoredAccess) error
	Secrets(ctx context.Context) ([]*gwv1.SecretValue, error)
	SaveSecrets(ctx context.Context, secrets []*gwv1.SecretValue) error
}

// Config is what an Uplink is made of. Its functions are called from Uplink's goroutines and must not call Run.
type Config struct {
	// EdgeID is the name to enrol with. Needed only without a stored identity, which otherwise decides.
	EdgeID string
	// Hubs are https URLs of hubs, tried in turn beside those that hubs told of. Needed to enrol.
	Hubs []string
	// JoinToken ("gwj_…") is needed only to enrol.
	JoinToken string
	// Store is required. Its owner closes it after Run has returned.
	Store Store
	// Tokens hears of access changes, and asks the hub through this Uplink. May be nil. See NewTokens.
	Tokens AccessCache
	// Apply is required. It compiles r, probes the table, saves it and swaps it in; afterwards Loaded tells of it. An
	// error other than nil must leave the old table serving; an *ApplyFailure in it says which fault it was, anything
	// else counts as a fault of storage, which is tried again. A disk that can't save is no reason to fail: serve, and
	// tell by Health.
	Apply func(ctx context.Context, r Release) error
	// Loaded is required and tells what the serving table holds.
	Loaded func() Loaded
	// SecretsOf returns the names of the secrets that a release needs. nil: none does.
	SecretsOf func(r Release) ([]string, error)
	// Spool is where payloads of plugins wait for a hub. nil: there are none.
	Spool Spool
	// Plugins says how the plugins of the edge are; nil: there are none. It doesn't block.
	Plugins func() []*gwv1.PluginProcess
	// Health says how the edge is; nil: always OK. It doesn't block.
	Health func() Health
	// Vitals says what the process does, at every heartbeat. Nil: nothing is said.
	Vitals func() *gwv1.Vitals
	// Version, Build, Metadata and Addresses are shown beside the edge. Addresses may be nil.
	Version, Build string
	Metadata       map[string]string
	Addresses      func() []string
	// Logger: nil means slog.Default().
	Logger *slog.Logger
	// Now: nil means time.Now.
	Now func() time.Time
}

// Release is a verified release: every blob has its digest, and the entries have the target's checksum.
type Release struct {
	Target    *gwv1.Target
	Namespace string
	// Entries are sorted by resource.CompareEntries; Blobs stand in the same order.
	Entries []resource.Entry
	Blobs   []*gwv1.Blob
}

// Stored returns r's record for the disk, to be saved with r.Blobs.
func (r Release) Stored() *gwv1.StoredRelease {
	s := &gwv1.StoredRelease{Target: r.Target, Namespace: r.Namespace, Entries: make([]*gwv1.ManifestEntry, len(r.Entries))}
	for i, e := range r.Entries {
		s.Entries[i] = &gwv1.ManifestEntry{Kind: e.Kind, Name: e.Name, Digest: e.Digest[:]}
	}
	return s
}

// Loaded is what the serving table was compiled from. Number 0: nothing was loaded.
type Loaded struct {
	Epoch, Number uint64
	Checksum      resource.Digest
	// Secrets are the names of the secrets it needs.
	Secrets []string
}

// Health is how the edge is, with a sentence for people when it isn't OK.
type Health struct {
	State  gwv1.Health
	Reason string
}

// Status is what Uplink knows about its conversation, for readiness checks and people.
type Status struct {
	EdgeID, Namespace, ClusterID string
	// Following is whether a hub's stream is open and ticking; Hub is the last one's URL.
	Following bool
	Hub       string
	// LastHeard is when a hub last ticked or answered a heartbeat. Zero: not since the start.
	LastHeard time.Time
	// Target is the newest one told; nil: none yet.
	Target *gwv1.Target
	// ApplyError is why Target isn't loaded; nil: it is, or is on its way.
	ApplyError *gwv1.ApplyError
	// AccessVersion is the last access change applied.
	AccessVersion uint64
	// CertificateNotAfter is when the edge's certificate ends. Zero: it hasn't enrolled.
	CertificateNotAfter time.Time
	// Revoked is what a hub said of this edge's certificates if it refuses them for good, "" otherwise.
	Revoked string
	// LastError is the last failure to reach a hub, "" once one is followed again.
	LastError string
}

// Uplink is one edge's conversation. New makes it, Run has it; the other methods may be called at any time from any
// goroutine.
type Uplink struct {
	c         Config
	log       *slog.Logger
	now       func() time.Time
	pace      pace
	session   string // 32 hexadecimal digits
	startedAt *timestamppb.Timestamp

	ident   atomic.Pointer[credentials] // nil until enrolled
	saving  sync.Mutex                  // held while the identity is saved
	secrets secretBox

	beatNow  chan struct{} // capacity 1: something a heartbeat should tell at once
	fetchNow chan struct{} // capacity 1: target or secrets changed
	reopen   chan struct{} // capacity 1: open another stream and leave this one
	saveNow  chan struct{} // capacity 1: the access version changed
	drainNow chan struct{} // capacity 1: a hub was just heard
	renewNow chan struct{} // capacity 1: a hub said that the certificate has ended

	kept     keptBlobs // of a transfer that was cut off; fetch's alone
	cameBack bool      // enrolling with a new join token was tried; follow's alone

	mu         sync.Mutex // guards all below
	hubs       hubList
	following  bool
	lastHeard  time.Time
	lastError  string
	revoked    string                       // why hubs refuse this edge for good; "": they don't
	target     *gwv1.Target                 // newest told; never goes back
	delivered  []*gwv1.FetchReleaseResponse // what came with target's tick, until it is used
	rejected   *gwv1.Target                 // failed to compile or probe; not fetched again until retry rises
	retry      uint64                       // the value at which rejections count, as last told
	applyError *gwv1.ApplyError
	access     *gwv1.StoredAccess // never nil; replaced, not changed
	sequence   uint64             // of the last heartbeat
	streams    uint64             // that have ticked
	spread     time.Duration      // over which hubs want the fleet to come back
}

// pace is every duration the conversation runs by, and how it connects; tests change both.
type pace struct {
	tickTimeout time.Duration // silence after which a stream is dead
	dial        time.Duration // to connect, TLS included
	leader      time.Duration // to connect to the hub that another one names as the leader
	call        time.Duration // an ordinary call
	fetch       time.Duration // a whole release
	drain       time.Duration // a batch of payloads
	goodbye     time.Duration
	heartbeat   time.Duration // until a hub says otherwise
	nap         time.Duration // bounds one wait for a renewal: timers stand still while a machine sleeps, clocks don't
	reconnect   backoff
	retry       backoff // fetches, heartbeats, secrets
	renew       backoff
	revoked     backoff                                                              // anything, once the hubs refuse this edge for good
	connect     func(ctx context.Context, network, address string) (net.Conn, error) // nil: over TCP
}

var defaultPace = pace{
	tickTimeout: 10 * time.Second,
	dial:        5 * time.Second,
	leader:      8 * time.Second,
	call:        10 * time.Second,
	fetch:       2 * time.Minute,
	drain:       time.Minute,
	goodbye:     2 * time.Second,
	heartbeat:   30 * time.Second,
	nap:         time.Minute,
	reconnect:   backoff{quickTries: 3, quick: 2 * time.Second, base: 2 * time.Second, cap: time.Minute},
	retry:       backoff{base: time.Second, cap: 30 * time.Second},
	renew:       backoff{base: 10 * time.Second, cap: 5 * time.Minute},
	revoked:     backoff{base: 2 * time.Minute, cap: 20 * time.Minute},
}

// New checks c and loads what the store knows, so that Secret answers before any hub does. It starts nothing.
func New(c Config) (*Uplink, error) {
	if c.Store == nil || c.Apply == nil || c.Loaded == nil {
		return nil, errors.New("uplink: Store, Apply and Loaded are required")
	}
	u := &Uplink{
		c: c, log: c.Logger, now: c.Now, pace: defaultPace,
		beatNow:  make(chan struct{}, 1),
		fetchNow: make(chan struct{}, 1),
		reopen:   make(chan struct{}, 1),
		saveNow:  make(chan struct{}, 1),
		drainNow: make(chan struct{}, 1),
		renewNow: make(chan struct{}, 1),
		access:   &gwv1.StoredAccess{},
	}
	if u.log == nil {
		u.log = slog.Default()
	}
	if u.now == nil {
		u.now = time.Now
	}
	var session [16]byte
	rand.Read(session[:])
	u.session = hex.EncodeToString(session[:])
	u.startedAt = timestamppb.New(u.now())
	if err := u.load(); err != nil {
		return nil, err
	}
	if c.Tokens != nil {
		c.Tokens.bind(u)
	}
	return u, nil
}

// load takes over what the store kept. Without a usable identity the edge enrols, which needs the settings for it.
func (u *Uplink) load() error {
	for _, raw := range u.c.Hubs {
		if err := checkHubURL(raw); err != nil {
			return fmt.Errorf("uplink: %w", err)
		}
	}
	u.hubs.add(u.c.Hubs...)
	if stored, err := u.c.Store.Identity(); err == nil {
		cred, err := newCredentials(stored, u.pace)
		if err != nil {
			u.log.Error("the stored identity can't be used; enrolling again", "error", err)
		} else {
			u.adopt(cred)
		}
	}
	if u.ident.Load() == nil {
		if err := u.checkEnrolment(); err != nil {
			return err
		}
	} else if u.hubs.len() == 0 {
		return errors.New("uplink: no hub is known: give at least one --hub URL")
	}
	ctx := context.Background()
	if a, err := u.c.Store.Access(ctx); err == nil {
		u.access = a
	}
	secrets, err := u.c.Store.Secrets(ctx)
	if err != nil {
		u.log.Warn("some stored secrets can't be used until a hub is reached", "error", err)
	}
	u.secrets.replace(secrets)
	// The access version may be of after a change whose secret was never fetched, and hubs tell only what is newer.
	u.secrets.doubt()
	return nil
}

// Run holds the conversation until ctx ends, then says goodbye and returns nil; it outlives every hub's absence. It
// returns an *EnrolmentError if the hubs refuse to take the edge in. It must be called once.
func (u *Uplink) Run(ctx context.Context) error {
	if u.ident.Load() == nil {
		if err := u.enrol(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return u.follow(ctx) })
	g.Go(func() error { return u.fetch(ctx) })
	g.Go(func() error { return u.beat(ctx) })
	g.Go(func() error { return u.renew(ctx) })
	g.Go(func() error { return u.keepAccess(ctx) })
	if u.c.Spool != nil {
		g.Go(func() error { return u.drain(ctx) })
	}
	err := g.Wait()
	u.sayGoodbye()
	u.ident.Load().transport.CloseIdleConnections()
	return err
}

// Secret returns the value of a secret that the serving table names. It doesn't block or allocate.
func (u *Uplink) Secret(name string) (string, bool) { return u.secrets.get(name) }

// Status returns what is known now.
func (u *Uplink) Status() Status {
	u.mu.Lock()
	defer u.mu.Unlock()
	s := Status{
		EdgeID: u.c.EdgeID, Following: u.following, Hub: u.hubs.current(), LastHeard: u.lastHeard, Target: u.target,
		ApplyError: u.applyError, AccessVersion: u.access.AccessVersion, LastError: u.lastError, Revoked: u.revoked,
	}
	if id := u.ident.Load(); id != nil {
		s.EdgeID, s.Namespace, s.ClusterID = id.edge.ID, id.edge.Namespace, id.edge.ClusterID
		s.CertificateNotAfter = id.leaf.NotAfter
	}
	return s
}

// heard notes that a hub answered.
func (u *Uplink) heard() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.lastHeard = u.now()
}

// wake makes the loop that waits for c go round once more.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// sleep waits for d, a wake-up (c may be nil) or the end of ctx; the result is whether ctx lasts.
func sleep(ctx context.Context, d time.Duration, c <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-c:
		return true
	case <-ctx.Done():
		return false
	}
}

// random returns a float in [0, 1).
func random() float64 { return mathrand.Float64() }
