package raftstore

import (
	"iter"
	"slices"
	"sort"
	"sync"

	"gw/raftstore/state"
	"gw/rpc/resource"
)

// Manifest is the working configuration of a namespace in short: what a push now would release.
type Manifest struct {
	// Index of the state it is of.
	Index    uint64
	Checksum resource.Digest
	// Entries are sorted; callers must not change them.
	Entries []resource.Entry
	// Size of the specs in bytes.
	Size uint64
}

// manifests remembers manifests, and brings them up to date by what was touched since.
type manifests struct {
	machine *machine

	mu       sync.Mutex
	restored uint64           // the history memo is of
	memo     map[string]*memo // namespace → its manifest; a namespace with nothing of its own has global's
}

// memo is a manifest with the sizes of its entries. It is not changed once made.
type memo struct {
	Manifest
	sizes []uint32 // of Entries
}

// of returns the manifest of a namespace at the newest state.
func (m *manifests) of(namespace string) Manifest {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, touched := m.machine.recent()
	if touched.restored != m.restored {
		clear(m.memo) // of another history, whose indexes mean nothing in this one
		m.restored = touched.restored
	}
	if !ownsResources(s, namespace) {
		delete(m.memo, namespace)
		namespace = resource.Global
	}
	known := m.memo[namespace]
	switch {
	case known == nil || known.Index < touched.floor:
		known = compute(s, namespace)
	case known.Index < s.Index():
		known = known.advance(s, namespace, touched.keys)
	}
	m.memo[namespace] = known
	return known.Manifest
}

func ownsResources(s *state.State, namespace string) bool {
	for range s.Resources(namespace) {
		return true
	}
	return false
}

// recent returns the newest state and what was touched on the way to it.
func (m *machine) recent() (*state.State, touched) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now.Load(), m.touched
}

func compute(s *state.State, namespace string) *memo {
	m := &memo{Manifest: Manifest{Index: s.Index()}}
	for r := range s.Effective(namespace) {
		d, _ := resource.AsDigest(r.Digest)
		m.Entries = append(m.Entries, resource.Entry{Kind: r.Kind, Name: r.Name, Digest: d})
		m.sizes = append(m.sizes, uint32(len(r.Spec)))
		m.Size += uint64(len(r.Spec))
	}
	m.Checksum = resource.Checksum(slices.Values(m.Entries))
	return m
}

// advance returns the manifest at a later state, given everything touched in between.
func (m *memo) advance(s *state.State, namespace string, keys []touchedKey) *memo {
	next := &memo{Manifest: m.Manifest, sizes: m.sizes}
	next.Index = s.Index()
	changed := map[resource.Key]bool{}
	for k := range after(keys, m.Index) {
		if k.Namespace == namespace || k.Namespace == resource.Global {
			changed[resource.Key{Kind: k.Kind, Name: k.Name}] = true
		}
	}
	if len(changed) == 0 {
		return next
	}
	if len(changed) > 64 && len(changed) > len(m.Entries)/8 {
		return compute(s, namespace) // each insertion moves what follows
	}
	next.Entries, next.sizes = slices.Clone(m.Entries), slices.Clone(m.sizes)
	for k := range changed {
		next.replace(s, namespace, k)
	}
	next.Checksum = resource.Checksum(slices.Values(next.Entries))
	return next
}

func after(keys []touchedKey, index uint64) iter.Seq[resource.Key] {
	return func(yield func(resource.Key) bool) {
		from := sort.Search(len(keys), func(i int) bool { return keys[i].index > index })
		for _, k := range keys[from:] {
			if !yield(k.key) {
				return
			}
		}
	}
}

// replace sets one entry to what the state has for it.
func (m *memo) replace(s *state.State, namespace string, k resource.Key) {
	i, there := slices.BinarySearchFunc(m.Entries, resource.Entry{Kind: k.Kind, Name: k.Name}, resource.CompareEntries)
	if there {
		m.Size -= uint64(m.sizes[i])
	}
	r, ok := s.Resource(k.Kind, namespace, k.Name)
	if !ok || r.OutsideReleases {
		r, ok = s.Resource(k.Kind, resource.Global, k.Name)
	}
	if !ok || r.OutsideReleases {
		if there {
			m.Entries, m.sizes = slices.Delete(m.Entries, i, i+1), slices.Delete(m.sizes, i, i+1)
		}
		return
	}
	d, _ := resource.AsDigest(r.Digest)
	e, size := resource.Entry{Kind: k.Kind, Name: k.Name, Digest: d}, uint32(len(r.Spec))
	m.Size += uint64(size)
	if there {
		m.Entries[i], m.sizes[i] = e, size
		return
	}
	m.Entries, m.sizes = slices.Insert(m.Entries, i, e), slices.Insert(m.sizes, i, size)
}
