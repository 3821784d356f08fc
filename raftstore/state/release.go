package state

import (
	"iter"
	"slices"

	iradix "github.com/hashicorp/go-immutable-radix"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Release is one immutable release of one namespace. Its entries are kept in a tree that shares with the release
// before it whatever is equal. Callers must not change what it returns.
type Release struct {
	Namespace string
	// Number is the push's; Epoch the cluster's when it was made.
	Number, Epoch uint64
	// Checksum of its manifest.
	Checksum resource.Digest
	// CreatedAt is in Unix nanoseconds.
	CreatedAt       int64
	CreatedBy, Note string
	// Size of its specs in bytes.
	Size uint64

	entries *iradix.Tree // entryKey → *gwv1.ReleaseEntry
	secrets []string     // that its entries name, sorted; derived
}

// GetNamespace is Namespace, as records of the other tables have it.
func (r *Release) GetNamespace() string { return r.Namespace }

// Entries are sorted by kind and name.
func (r *Release) Entries() iter.Seq[*gwv1.ReleaseEntry] { return entriesOf(r.entries) }

// Entry returns one of them.
func (r *Release) Entry(kind, name string) (*gwv1.ReleaseEntry, bool) {
	v, ok := r.entries.Get(join(kind, name))
	if !ok {
		return nil, false
	}
	e, ok := v.(*gwv1.ReleaseEntry)
	return e, ok
}

// Len is the number of entries.
func (r *Release) Len() int { return r.entries.Len() }

// Secrets are the names of the secrets its entries name, sorted.
func (r *Release) Secrets() []string { return r.secrets }

func entryKey(e *gwv1.ReleaseEntry) []byte { return join(e.Kind, e.Name) }

func entriesOf(t *iradix.Tree) iter.Seq[*gwv1.ReleaseEntry] {
	return func(yield func(*gwv1.ReleaseEntry) bool) {
		it := t.Root().Iterator()
		for _, v, ok := it.Next(); ok; _, v, ok = it.Next() {
			if e, is := v.(*gwv1.ReleaseEntry); is && !yield(e) {
				return
			}
		}
	}
}

func manifestOf(entries iter.Seq[*gwv1.ReleaseEntry]) iter.Seq[resource.Entry] {
	return func(yield func(resource.Entry) bool) {
		for e := range entries {
			d, _ := resource.AsDigest(e.Digest)
			if !yield(resource.Entry{Kind: e.Kind, Name: e.Name, Digest: d}) {
				return
			}
		}
	}
}

// summarise sets what is derived from the entries; previous, which may be nil, lends its list of secrets if it is equal.
func (r *Release) summarise(previous *Release) {
	r.Size = 0
	names := map[string]bool{}
	for e := range r.Entries() {
		r.Size += uint64(len(e.Spec))
		for _, s := range e.Secrets {
			names[s] = true
		}
	}
	r.secrets = make([]string, 0, len(names))
	for n := range names {
		r.secrets = append(r.secrets, n)
	}
	slices.Sort(r.secrets)
	if previous != nil && slices.Equal(previous.secrets, r.secrets) {
		r.secrets = previous.secrets
	}
}
