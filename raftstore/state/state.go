// Package state owns what the cluster agrees on and how each command changes it: immutable values and a pure function,
// with no clock, no I/O and no randomness.
package state

import (
	"iter"

	"github.com/hashicorp/go-memdb"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// State is what the cluster agrees on after one log entry. It never changes; Apply makes the next one, which shares
// what is equal. Safe for any number of goroutines. Records and slices it returns belong to it: callers must not change
// them.
type State struct {
	index   uint64
	cluster *gwv1.ClusterRecord
	// accessFloor is the version of the newest access change that was dropped: who knows less can't be caught up.
	accessFloor uint64
	db          *memdb.MemDB // a snapshot nobody writes to

	// Sums and counts over tables, kept so that limits need no scan; derived from db, not part of a snapshot.
	totals totals
}

// totals are derived from the tables they speak of.
type totals struct {
	auditEntries     int
	accessChanges    int
	idempotencyKeys  int
	idempotencyBytes int
	stagedBytes      int
	pluginKVBytes    int
	deadLetters      int
}

// New returns the state before the first log entry.
func New() *State {
	db, err := memdb.NewMemDB(schema())
	if err != nil {
		panic("state: schema: " + err.Error()) // a mistake in tables, met by every test
	}
	return &State{cluster: &gwv1.ClusterRecord{}, db: db.Snapshot()}
}

// Index is that of the last log entry applied.
func (s *State) Index() uint64 { return s.index }

// At returns the state as it is after a log entry at index that is no command.
func (s *State) At(index uint64) *State {
	if index <= s.index {
		return s
	}
	next := *s
	next.index = index
	return &next
}

// Cluster is what there is once per cluster; never nil.
func (s *State) Cluster() *gwv1.ClusterRecord { return s.cluster }

// Resource returns one saved resource of one layer.
func (s *State) Resource(kind, namespace, name string) (*gwv1.ResourceRecord, bool) {
	return one[*gwv1.ResourceRecord](s.db.Txn(false), tableResources, byID, resourceKey(kind, namespace, name))
}

// Resources are those saved in one namespace, which is one layer, sorted by kind and name; of every namespace, sorted
// by namespace first, if it is "".
func (s *State) Resources(namespace string) iter.Seq[*gwv1.ResourceRecord] {
	return within[*gwv1.ResourceRecord](s, tableResources, byID, namespace)
}

// ResourcesOf are those of one kind in one namespace, sorted by name.
func (s *State) ResourcesOf(kind, namespace string) iter.Seq[*gwv1.ResourceRecord] {
	return list[*gwv1.ResourceRecord](s.db.Txn(false), tableResources, byID, terminated(namespace, kind))
}

// Effective is the configuration edges of a namespace would get by a push now: global overlaid by the namespace, less
// what takes effect outside of releases, sorted by kind and name.
func (s *State) Effective(namespace string) iter.Seq[*gwv1.ResourceRecord] {
	return effective(s.db.Txn(false), namespace)
}

// effective merges two sorted layers by hand: iter.Pull would cost more than all the rest.
func effective(tx *memdb.Txn, namespace string) iter.Seq[*gwv1.ResourceRecord] {
	global := released(list[*gwv1.ResourceRecord](tx, tableResources, byID, terminated(resource.Global)))
	if namespace == resource.Global {
		return global
	}
	return func(yield func(*gwv1.ResourceRecord) bool) {
		own, err := tx.Get(tableResources, byID+"_prefix", terminated(namespace))
		if err != nil {
			return
		}
		next := func() *gwv1.ResourceRecord {
			for {
				if o, _ := own.Next().(*gwv1.ResourceRecord); o == nil || !o.OutsideReleases {
					return o
				}
			}
		}
		o := next()
		for g := range global {
			for o != nil && compareNames(o.Kind, o.Name, g.Kind, g.Name) < 0 {
				if !yield(o) {
					return
				}
				o = next()
			}
			if o != nil && o.Kind == g.Kind && o.Name == g.Name {
				continue // o stands in its place, and is yielded by the next round or after the last
			}
			if !yield(g) {
				return
			}
		}
		for ; o != nil; o = next() {
			if !yield(o) {
				return
			}
		}
	}
}

// released leaves out what takes effect outside of releases.
func released(all iter.Seq[*gwv1.ResourceRecord]) iter.Seq[*gwv1.ResourceRecord] {
	return func(yield func(*gwv1.ResourceRecord) bool) {
		for r := range all {
			if !r.OutsideReleases && !yield(r) {
				return
			}
		}
	}
}

// Namespaces are those in which there is a resource, a release, an app, a secret, a join token or an edge, and
// "default"; never "global". Sorted.
func (s *State) Namespaces() []string { return namespaces(s.db.Txn(false)) }

// Target is the newest release of a namespace.
func (s *State) Target(namespace string) (*Release, bool) { return target(s.db.Txn(false), namespace) }

// Release returns one kept release of a namespace.
func (s *State) Release(namespace string, number uint64) (*Release, bool) {
	return one[*Release](s.db.Txn(false), tableReleases, byID, releaseKey(namespace, number))
}

// Releases are the kept releases of a namespace, newest first; of every namespace, namespaces in descending order, if
// it is "".
func (s *State) Releases(namespace string) iter.Seq[*Release] {
	return reversed[*Release](s.db.Txn(false), tableReleases, byID, prefixOf(namespace))
}

// App returns an app by its name.
func (s *State) App(namespace, name string) (*gwv1.AppRecord, bool) {
	return one[*gwv1.AppRecord](s.db.Txn(false), tableApps, byID, join(namespace, name))
}

// AppByID returns an app by its ID.
func (s *State) AppByID(id string) (*gwv1.AppRecord, bool) {
	return one[*gwv1.AppRecord](s.db.Txn(false), tableApps, byUID, []byte(id))
}

// Apps are those of one namespace, sorted by name; of all, sorted by namespace first, if it is "".
func (s *State) Apps(namespace string) iter.Seq[*gwv1.AppRecord] {
	return within[*gwv1.AppRecord](s, tableApps, byID, namespace)
}

// Token returns a token by its ID, a revoked one too.
func (s *State) Token(id string) (*gwv1.TokenRecord, bool) {
	return one[*gwv1.TokenRecord](s.db.Txn(false), tableTokens, byID, []byte(id))
}

// TokenByHash returns a token by the SHA-256 of its credential, a revoked one too.
func (s *State) TokenByHash(hash []byte) (*gwv1.TokenRecord, bool) {
	return one[*gwv1.TokenRecord](s.db.Txn(false), tableTokens, byHash, clip(hash))
}

// Tokens are those of one app, sorted by ID; of every app, if appID is "".
func (s *State) Tokens(appID string) iter.Seq[*gwv1.TokenRecord] {
	if appID == "" {
		return list[*gwv1.TokenRecord](s.db.Txn(false), tableTokens, byID, nil)
	}
	return list[*gwv1.TokenRecord](s.db.Txn(false), tableTokens, byApp, terminated(appID))
}

// Secret returns a secret of exactly this namespace; looking into global next is the caller's part.
func (s *State) Secret(namespace, name string) (*gwv1.SecretRecord, bool) {
	return one[*gwv1.SecretRecord](s.db.Txn(false), tableSecrets, byID, join(namespace, name))
}

// Secrets are those of one namespace, sorted by name; of all, sorted by namespace first, if it is "".
func (s *State) Secrets(namespace string) iter.Seq[*gwv1.SecretRecord] {
	return within[*gwv1.SecretRecord](s, tableSecrets, byID, namespace)
}

// JoinToken returns a join token by its ID, whether or not it still admits anyone.
func (s *State) JoinToken(id string) (*gwv1.JoinTokenRecord, bool) {
	return one[*gwv1.JoinTokenRecord](s.db.Txn(false), tableJoinTokens, byID, []byte(id))
}

// JoinTokens are all, sorted by ID.
func (s *State) JoinTokens() iter.Seq[*gwv1.JoinTokenRecord] {
	return list[*gwv1.JoinTokenRecord](s.db.Txn(false), tableJoinTokens, byID, nil)
}

// Edge returns a registered edge.
func (s *State) Edge(id string) (*gwv1.EdgeRecord, bool) {
	return one[*gwv1.EdgeRecord](s.db.Txn(false), tableEdges, byID, []byte(id))
}

// Edges are all registered ones, sorted by ID.
func (s *State) Edges() iter.Seq[*gwv1.EdgeRecord] {
	return list[*gwv1.EdgeRecord](s.db.Txn(false), tableEdges, byID, nil)
}

// EdgesIn are the registered edges of one namespace, sorted by ID.
func (s *State) EdgesIn(namespace string) iter.Seq[*gwv1.EdgeRecord] {
	return list[*gwv1.EdgeRecord](s.db.Txn(false), tableEdges, byNamespace, terminated(namespace))
}

// Hub returns a hub by its ID, a removed one too.
func (s *State) Hub(id string) (*gwv1.HubRecord, bool) {
	return one[*gwv1.HubRecord](s.db.Txn(false), tableHubs, byID, []byte(id))
}

// Hubs are all, removed ones too, sorted by ID.
func (s *State) Hubs() iter.Seq[*gwv1.HubRecord] {
	return list[*gwv1.HubRecord](s.db.Txn(false), tableHubs, byID, nil)
}

// User returns a person or program that may sign in.
func (s *State) User(name string) (*gwv1.UserRecord, bool) {
	return one[*gwv1.UserRecord](s.db.Txn(false), tableUsers, byID, []byte(name))
}

// Users are all, sorted by name.
func (s *State) Users() iter.Seq[*gwv1.UserRecord] {
	return list[*gwv1.UserRecord](s.db.Txn(false), tableUsers, byID, nil)
}

// Session returns a session by the SHA-256 of its bearer token, perhaps one that has ended: the caller knows the time.
func (s *State) Session(hash []byte) (*gwv1.SessionRecord, bool) {
	return one[*gwv1.SessionRecord](s.db.Txn(false), tableSessions, byID, clip(hash))
}

// Sessions are all, ended ones too, in no order that means anything.
func (s *State) Sessions() iter.Seq[*gwv1.SessionRecord] {
	return list[*gwv1.SessionRecord](s.db.Txn(false), tableSessions, byID, nil)
}

// AccessSince returns the access changes after version, oldest first. ok is false if some of them are no longer kept,
// or if version is of a future this state doesn't know; then changes is empty.
func (s *State) AccessSince(version uint64) (changes []*gwv1.AccessChangeRecord, ok bool) {
	if version < s.accessFloor || version > s.cluster.AccessVersion {
		return nil, false
	}
	for r := range from[*gwv1.AccessChangeRecord](s.db.Txn(false), tableAccess, byID, number(version+1)) {
		changes = append(changes, r)
	}
	return changes, true
}

// Audit are the kept audit entries, newest first.
func (s *State) Audit() iter.Seq[*gwv1.AuditRecord] {
	return reversed[*gwv1.AuditRecord](s.db.Txn(false), tableAudit, byID, nil)
}

// Repeated returns what is kept of an idempotency key, if its command was applied and is not forgotten: a handler that
// would have to make a different command the second time can ask before it makes one.
func (s *State) Repeated(actor, key string) (*gwv1.IdempotencyRecord, bool) {
	return one[*gwv1.IdempotencyRecord](s.db.Txn(false), tableIdempotency, byID, join(actor, key))
}
