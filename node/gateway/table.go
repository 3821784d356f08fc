package gateway

import (
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
type Table struct{}

// Compile builds a table, whole or not at all. The error is resource.Errors and holds everything that is wrong, with
// codes resource.CodeInvalid, resource.CodeConflict and resource.CodeTooOld.
func Compile(s Snapshot) (*Table, error) { return &Table{}, nil }

// Checksum returns the checksum of the manifest of what the table serves, computed now from its entries.
func (t *Table) Checksum() resource.Digest { return resource.EmptyChecksum }

// Secrets returns the names of the secrets the table's resources refer to, sorted, each once.
func (t *Table) Secrets() []string { return nil }

// Namespace returns the namespace of the release the table was compiled from.
func (t *Table) Namespace() string { return "" }

// Epoch returns the epoch of the release the table was compiled from.
func (t *Table) Epoch() uint64 { return 0 }

// Number returns the number of the release the table was compiled from.
func (t *Table) Number() uint64 { return 0 }

// Len returns how many resources the table serves.
func (t *Table) Len() int { return 0 }

type kind uint8

func (kind) every() string { return "" }

type target struct {
	ref  string
	kind kind
}
