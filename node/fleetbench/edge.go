package fleetbench

import (
	"context"
	"errors"
	"sync"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Edge is the conversation of one edge with the hubs.
type Edge interface {
	// Run enrols and holds the conversation until ctx ends; then it returns nil. An error: the hubs refuse the edge.
	Run(ctx context.Context) error
	// Following reports whether a hub's stream is open and ticking, and what came in between last if not.
	Following() (ok bool, why string)
}

// EdgeConfig is what an Edge is made of. Its functions don't block and may be called from any goroutine.
type EdgeConfig struct {
	ID        string
	Hubs      []string
	JoinToken string
	// Store is the edge's disk, in memory.
	Store *Store
	// Apply takes a verified release over, whose blobs are sorted by kind and name.
	Apply func(target *gwv1.Target, namespace string, blobs []*gwv1.Blob)
	// Loaded tells what was applied last.
	Loaded func() (epoch, number uint64, checksum resource.Digest)
	// Beat is called once for every heartbeat that is sent.
	Beat func()
	// Revoked is called when the edge has applied the revocation of the token with this SHA-256.
	Revoked func(hash [32]byte)
}

// Store is an edge's disk, in memory. What it keeps of a release is shared by all edges that have the same.
type Store struct {
	edge *edge

	mu        sync.Mutex // guards what follows
	identity  *gwv1.StoredIdentity
	enrolment *gwv1.StoredEnrolment // nil: none, or it is done
	access    *gwv1.StoredAccess
	secrets   []*gwv1.SecretValue
	release   *held // nil: none
}

var errNothing = errors.New("nothing is stored")

// Identity returns who the edge is, an error if it has not enrolled.
func (s *Store) Identity() (*gwv1.StoredIdentity, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.identity == nil {
		return nil, errNothing
	}
	return s.identity, nil
}

// SaveIdentity keeps a copy of id.
func (s *Store) SaveIdentity(id *gwv1.StoredIdentity) error {
	s.mu.Lock()
	first := s.identity == nil
	s.identity, s.enrolment = proto.CloneOf(id), nil
	s.mu.Unlock()
	if first {
		s.edge.fleet.enrolled.mark(s.edge.index)
	}
	return nil
}

// Enrolment returns what the edge enrols with, an error if it doesn't.
func (s *Store) Enrolment() (*gwv1.StoredEnrolment, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.enrolment == nil {
		return nil, errNothing
	}
	return s.enrolment, nil
}

// SaveEnrolment keeps e, which must not be changed.
func (s *Store) SaveEnrolment(e *gwv1.StoredEnrolment) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.enrolment = e
	return nil
}

// LoadRelease returns what the edge has; only generation 0 is kept.
func (s *Store) LoadRelease(_ context.Context, generation int) (*gwv1.StoredRelease, []*gwv1.Blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.release == nil || generation > 0 {
		return nil, nil, errNothing
	}
	return &gwv1.StoredRelease{Target: s.release.target, Namespace: s.release.namespace}, s.release.blobs, nil
}

// Access returns how far the edge followed access changes.
func (s *Store) Access(context.Context) (*gwv1.StoredAccess, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.access == nil {
		return nil, errNothing
	}
	return s.access, nil
}

// SaveAccess keeps a, which must not be changed. The first comes with the first tick of a hub's stream.
func (s *Store) SaveAccess(_ context.Context, a *gwv1.StoredAccess) error {
	s.mu.Lock()
	first := s.access == nil
	s.access = a
	s.mu.Unlock()
	if first {
		s.edge.fleet.following.mark(s.edge.index)
		s.edge.admitted()
	}
	return nil
}

// Secrets returns the secrets kept.
func (s *Store) Secrets(context.Context) ([]*gwv1.SecretValue, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.secrets, nil
}

// SaveSecrets keeps secrets, which must not be changed.
func (s *Store) SaveSecrets(_ context.Context, secrets []*gwv1.SecretValue) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secrets = secrets
	return nil
}

// edge is one simulated edge.
type edge struct {
	index    int
	fleet    *fleet
	store    *Store
	talk     Edge
	admitted func() // lets the next edge enrol; may be called often
}

func (e *edge) apply(target *gwv1.Target, namespace string, blobs []*gwv1.Blob) {
	release := e.fleet.library.take(target, namespace, blobs)
	e.store.mu.Lock()
	old := e.store.release
	e.store.release = release
	e.store.mu.Unlock()
	e.fleet.library.drop(old)
	e.fleet.loaded(e.index, target.GetNumber())
}

func (e *edge) loaded() (epoch, number uint64, checksum resource.Digest) {
	e.store.mu.Lock()
	defer e.store.mu.Unlock()
	if e.store.release == nil {
		return 0, 0, resource.EmptyChecksum
	}
	t := e.store.release.target
	checksum, _ = resource.AsDigest(t.GetChecksum()) // the edge has verified it
	return t.GetEpoch(), t.GetNumber(), checksum
}

// library keeps every release once, as long as an edge has it.
type library struct {
	mu   sync.Mutex       // guards what follows
	held map[string]*held // by namespace, epoch, number and checksum
}

// held is a release in a library. It is not changed but for users.
type held struct {
	key       string
	target    *gwv1.Target
	namespace string
	blobs     []*gwv1.Blob
	users     int // guarded by library.mu
}

// take returns the library's copy, which becomes this one if there is none.
func (l *library) take(target *gwv1.Target, namespace string, blobs []*gwv1.Blob) *held {
	// A message's deterministic bytes are the same in one process.
	id, _ := proto.MarshalOptions{Deterministic: true}.Marshal(target) // no field of it can fail to encode
	key := namespace + "\x00" + string(id)
	l.mu.Lock()
	defer l.mu.Unlock()
	h, ok := l.held[key]
	if !ok {
		h = &held{key: key, target: target, namespace: namespace, blobs: blobs}
		l.held[key] = h
	}
	h.users++
	return h
}

// drop gives a release back; nil is none.
func (l *library) drop(h *held) {
	if h == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(l.held, h.key)
	}
}
