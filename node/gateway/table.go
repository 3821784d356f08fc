package gateway

import (
	"slices"

	"gw/rpc/resource"
)

// Snapshot is one release as it is to be served. Compile reads it and keeps nothing of it but strings.
type Snapshot struct {
	Namespace     string
	Epoch, Number uint64
	Resources     []Resource
}

// Resource is one configuration object: its canonical bytes and their digest.
type Resource struct {
	Kind, Name string
	Digest     resource.Digest
	Spec       []byte
}

// Table answers which resource serves a request. It is immutable.
type Table struct {
	namespace     string
	epoch, number uint64
	entries       []resource.Entry // in the order of a manifest
	targets       []*target        // those of the entries that requests are sent to
	plugins       []*TablePlugin   // those that requests are shown to, in the order they are asked
	secrets       []string
	// pluginsAskFirst: some LLM's plugins are asked before the caller is known.
	pluginsAskFirst bool

	// What requests are found by: host name → claims; ".example.com" → claims on every name that ends so; claims on
	// every host; the LLMs by name.
	exact     map[string]*prefixes
	suffixes  map[string]*prefixes
	everyHost *prefixes
	llms      map[string]*target
}

// Checksum returns the checksum of the manifest of what the table serves, computed now from its entries.
func (t *Table) Checksum() resource.Digest {
	return resource.Checksum(slices.Values(t.entries))
}

// Secrets returns the names of the secrets the table's resources refer to, sorted, each once.
func (t *Table) Secrets() []string { return slices.Clone(t.secrets) }

// Namespace returns the namespace of the release the table was compiled from.
func (t *Table) Namespace() string { return t.namespace }

// Epoch returns the epoch of the release the table was compiled from.
func (t *Table) Epoch() uint64 { return t.epoch }

// Number returns the number of the release the table was compiled from.
func (t *Table) Number() uint64 { return t.number }

// Len returns how many resources the table serves.
func (t *Table) Len() int { return len(t.entries) }

// Plugins returns the plugins of the table; Plugins of a Swap name them by their place here.
func (t *Table) Plugins() []*TablePlugin { return slices.Clone(t.plugins) }
