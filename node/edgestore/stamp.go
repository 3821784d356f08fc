package edgestore

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
)

// stampSize is how many bytes of a SHA-256 stand before a record. They find what a disk has changed, not what somebody
// with the key beside the file has.
const stampSize = 16

// stamp returns a record as it is kept: behind a digest of it and of what it is bound to. SQLite doesn't notice a byte that
// changes within a record, and a release with another number, or a token of another app, would be believed.
func stamp(record []byte, bound ...string) []byte {
	return append(digestOfRecord(record, bound), record...)
}

// unstamp returns the record that was stamped; ErrCorrupt.
func unstamp(stamped []byte, bound ...string) ([]byte, error) {
	if len(stamped) < stampSize {
		return nil, fmt.Errorf("%w: a record of %d bytes", ErrCorrupt, len(stamped))
	}
	record := stamped[stampSize:]
	if string(digestOfRecord(record, bound)) != string(stamped[:stampSize]) {
		return nil, fmt.Errorf("%w: a record has other bytes than it was saved with", ErrCorrupt)
	}
	return record, nil
}

func digestOfRecord(record []byte, bound []string) []byte {
	h := sha256.New()
	for _, b := range bound {
		h.Write(binary.AppendUvarint(nil, uint64(len(b))))
		h.Write([]byte(b))
	}
	h.Write(record)
	return h.Sum(nil)[:stampSize:stampSize]
}
