package resource

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"iter"
	"strings"
)

// Digest is a SHA-256: of one resource (DigestOf) or of a manifest (Checksum).
type Digest [sha256.Size]byte

// String returns the digest as 64 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Short returns its first 8 hexadecimal digits, for people.
func (d Digest) Short() string { return hex.EncodeToString(d[:4]) }

// AsDigest returns b as a digest; ok is false unless it has 32 bytes.
func AsDigest(b []byte) (d Digest, ok bool) {
	return d, copy(d[:], b) == len(d) && len(b) == len(d)
}

// Entry is one line of a manifest: which bytes a resource has.
type Entry struct {
	Kind, Name string
	Digest     Digest
}

// CompareEntries orders entries as manifests are: by kind, then by name, bytewise.
func CompareEntries(a, b Entry) int {
	return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
}

// The prefixes keep a resource's digest and a manifest's checksum from ever being taken for one another, and for those
// of a later format.
const (
	resourcePrefix = "gw resource v1\n"
	manifestPrefix = "gw manifest v1\n"
)

// DigestOf returns the SHA-256 over kind, name and the canonical bytes of the spec.
func DigestOf(kind, name string, spec []byte) Digest {
	h := sha256.New()
	b := make([]byte, 0, 256)
	b = append(b, resourcePrefix...)
	b = appendString(b, kind)
	b = appendString(b, name)
	h.Write(b)
	h.Write(spec)
	var d Digest
	h.Sum(d[:0])
	return d
}

// Checksum returns the SHA-256 of a manifest. The entries must come in the order of CompareEntries, without repeats;
// none at all gives EmptyChecksum.
func Checksum(sorted iter.Seq[Entry]) Digest {
	h := sha256.New()
	b := make([]byte, 0, 16<<10)
	b = append(b, manifestPrefix...)
	for e := range sorted {
		if len(b)+len(e.Kind)+len(e.Name)+64 > cap(b) {
			h.Write(b)
			b = b[:0]
		}
		b = appendString(b, e.Kind)
		b = appendString(b, e.Name)
		b = append(b, e.Digest[:]...)
	}
	h.Write(b)
	var d Digest
	h.Sum(d[:0])
	return d
}

// EmptyChecksum is the checksum of a manifest without entries: what an edge runs before its namespace's first push.
var EmptyChecksum = Checksum(func(func(Entry) bool) {})

func appendString(b []byte, s string) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}
