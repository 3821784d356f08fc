package raftstore

import "gw/rpc/resource"

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
