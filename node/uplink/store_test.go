package uplink

import (
	"context"
	"errors"
	"maps"
	"sync"

	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
)

// memoryStore is a disk that survives an Uplink, but no process. fault, if set, is what every write fails with.
type memoryStore struct {
	mu        sync.Mutex
	fault     error
	identity  *gwv1.StoredIdentity
	enrolment *gwv1.StoredEnrolment
	access    *gwv1.StoredAccess
	secrets   []*gwv1.SecretValue
	tokens    map[[32]byte]*gwv1.StoredToken
	releases  []Release // newest first

	onSaveIdentity func() // before it is saved
}

var errNothing = errors.New("nothing")

func (m *memoryStore) Identity() (*gwv1.StoredIdentity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.identity == nil {
		return nil, errNothing
	}
	return proto.CloneOf(m.identity), nil
}

func (m *memoryStore) SaveIdentity(id *gwv1.StoredIdentity) error {
	if m.onSaveIdentity != nil {
		m.onSaveIdentity()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault == nil {
		m.identity, m.enrolment = proto.CloneOf(id), nil
	}
	return m.fault
}

func (m *memoryStore) Enrolment() (*gwv1.StoredEnrolment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.enrolment == nil {
		return nil, errNothing
	}
	return proto.CloneOf(m.enrolment), nil
}

func (m *memoryStore) SaveEnrolment(e *gwv1.StoredEnrolment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault == nil {
		m.enrolment = proto.CloneOf(e)
	}
	return m.fault
}

func (m *memoryStore) LoadRelease(_ context.Context, generation int) (*gwv1.StoredRelease, []*gwv1.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if generation >= len(m.releases) {
		return nil, nil, errNothing
	}
	r := m.releases[generation]
	return r.Stored(), r.Blobs, nil
}

func (m *memoryStore) saveRelease(r Release) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.releases = append([]Release{r}, m.releases...)
	if len(m.releases) > 2 {
		m.releases = m.releases[:2]
	}
}

func (m *memoryStore) Access(context.Context) (*gwv1.StoredAccess, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.access == nil {
		return nil, errNothing
	}
	return m.access, nil
}

func (m *memoryStore) SaveAccess(_ context.Context, a *gwv1.StoredAccess) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault == nil {
		m.access = a
	}
	return m.fault
}

func (m *memoryStore) Secrets(context.Context) ([]*gwv1.SecretValue, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.secrets, nil
}

func (m *memoryStore) SaveSecrets(_ context.Context, secrets []*gwv1.SecretValue) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault == nil {
		m.secrets = secrets
	}
	return m.fault
}

func (m *memoryStore) Tokens(context.Context) (map[[32]byte]*gwv1.StoredToken, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.tokens), nil
}

func (m *memoryStore) SaveToken(hash [32]byte, t *gwv1.StoredToken) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tokens == nil {
		m.tokens = make(map[[32]byte]*gwv1.StoredToken)
	}
	m.tokens[hash] = t
	return nil
}

func (m *memoryStore) DeleteTokens(hashes ...[32]byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, hash := range hashes {
		delete(m.tokens, hash)
	}
	return nil
}
