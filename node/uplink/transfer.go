package uplink

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// Limits on what a hub may send, so that a faulty one can't fill the edge's memory.
const (
	maxResources  = 250_000
	maxReleaseLen = 80 << 20 // bytes of blobs; the hub refuses to push more than 64 MiB
	maxPartLen    = 8 << 20  // bytes of a part, decompressed
	blobOverhead  = 512      // bytes a blob may have beside its spec
)

// transfer puts a release together from the parts of a FetchRelease answer and what the edge holds. It is a pure value:
// parts in, a verified release or a refusal out.
type transfer struct {
	namespace string       // the certificate's
	running   *gwv1.Target // what is served; the release must come after it
	base      []*gwv1.Blob // what the edge holds, verified
	baseSum   []byte       // its checksum; empty: it holds nothing
	kept      keptBlobs    // of transfers that were cut off, verified; the hub was told of them
	header    *gwv1.ReleaseHeader
	manifest  map[manifestKey]resource.Digest
	received  map[resource.Digest]*gwv1.Blob
	parts     uint64 // bytes of all parts, decompressed
	specs     uint64 // bytes of all specs in them
	ended     bool
}

type manifestKey struct{ kind, name string }

// part takes the next part.
func (t *transfer) part(p *gwv1.FetchReleaseResponse) error {
	if header, ok := p.Part.(*gwv1.FetchReleaseResponse_Header); ok != (t.header == nil) || t.ended {
		return refusef("the release's parts are out of order")
	} else if ok {
		return t.start(header.Header)
	}
	switch part := p.Part.(type) {
	case *gwv1.FetchReleaseResponse_Manifest:
		return t.merge(part.Manifest)
	case *gwv1.FetchReleaseResponse_Blobs:
		return t.unpack(part.Blobs)
	case *gwv1.FetchReleaseResponse_End:
		t.ended = true
		return nil
	default:
		return refusef("the release has a part of an unknown kind")
	}
}

func (t *transfer) start(h *gwv1.ReleaseHeader) error {
	switch {
	case h.Namespace != t.namespace:
		return refusef("the release is for namespace %q, this edge's certificate is for %q", h.Namespace, t.namespace)
	case !newer(h.Target, t.running.GetEpoch(), t.running.GetNumber()):
		return refusef("release %d of epoch %d doesn't come after release %d of epoch %d, which is running",
			h.GetTarget().GetNumber(), h.GetTarget().GetEpoch(), t.running.GetNumber(), t.running.GetEpoch())
	case len(h.Target.Checksum) != len(resource.Digest{}):
		return refusef("the release's checksum has %d bytes", len(h.Target.Checksum))
	case h.Resources > maxResources || h.Blobs > maxResources || h.BlobBytes > maxReleaseLen:
		return refusef("the release is too large: %d resources, %d bytes", h.Resources, h.BlobBytes)
	case len(h.BaseChecksum) > 0 && !bytes.Equal(h.BaseChecksum, t.baseSum):
		return refusef("the release is a difference to something this edge doesn't hold")
	}
	t.header = h
	t.manifest = make(map[manifestKey]resource.Digest, h.Resources)
	t.received = make(map[resource.Digest]*gwv1.Blob, h.Blobs)
	if len(h.BaseChecksum) > 0 {
		for _, b := range t.base {
			digest, ok := resource.AsDigest(b.Digest)
			if !ok {
				return refusef("%s/%s: its digest on disk has %d bytes", b.Kind, b.Name, len(b.Digest))
			}
			t.manifest[manifestKey{b.Kind, b.Name}] = digest
		}
	}
	return nil
}

func (t *transfer) merge(m *gwv1.ManifestPart) error {
	for _, e := range m.Removals {
		delete(t.manifest, manifestKey{e.Kind, e.Name})
	}
	for _, e := range m.Upserts {
		digest, ok := resource.AsDigest(e.Digest)
		if !ok {
			return refusef("%s/%s: its digest has %d bytes", e.Kind, e.Name, len(e.Digest))
		}
		t.manifest[manifestKey{e.Kind, e.Name}] = digest
		if len(t.manifest) > maxResources {
			return refusef("the release has more than %d resources", maxResources)
		}
	}
	return nil
}

// unpack reads the blobs of a part and checks each against its digest.
func (t *transfer) unpack(p *gwv1.BlobPart) error {
	t.parts += uint64(p.Size)
	if p.Size > maxPartLen || t.parts > t.header.BlobBytes+blobOverhead*uint64(t.header.Blobs) {
		return refusef("the release has more bytes than were announced")
	}
	data, err := decompress(p.Zstd, int(p.Size))
	if err != nil {
		return refusef("a part of the release doesn't decompress: %w", err)
	}
	reader := bytes.NewReader(data)
	for {
		b := &gwv1.Blob{}
		err := protodelim.UnmarshalOptions{MaxSize: maxPartLen}.UnmarshalFrom(reader, b)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refusef("a part of the release doesn't decode: %w", err)
		}
		digest := resource.DigestOf(b.Kind, b.Name, b.Spec)
		if !bytes.Equal(digest[:], b.Digest) {
			return refusef("%s/%s: its bytes don't have the digest they came under", b.Kind, b.Name)
		}
		if _, twice := t.received[digest]; twice || len(t.received) >= int(t.header.Blobs) {
			return refusef("%s/%s: sent twice, or more than were announced", b.Kind, b.Name)
		}
		if t.specs += uint64(len(b.Spec)); t.specs > t.header.BlobBytes {
			return refusef("the release has more bytes than were announced")
		}
		t.received[digest] = b
	}
}

// release returns the whole, if it is what its target says.
func (t *transfer) release() (Release, error) {
	if !t.ended {
		return Release{}, &ApplyFailure{Code: CodeFetch, Message: "the release was cut off"}
	}
	entries := make([]resource.Entry, 0, len(t.manifest))
	for key, digest := range t.manifest {
		entries = append(entries, resource.Entry{Kind: key.kind, Name: key.name, Digest: digest})
	}
	slices.SortFunc(entries, resource.CompareEntries)
	sum := resource.Checksum(slices.Values(entries))
	if !bytes.Equal(sum[:], t.header.Target.Checksum) {
		return Release{}, refusef("the manifest has checksum %s, release %d has %s", sum.Short(), t.header.Target.Number,
			resource.Digest(t.header.Target.Checksum).Short())
	}
	if len(entries) != int(t.header.Resources) {
		return Release{}, refusef("the manifest has %d resources, %d were announced", len(entries), t.header.Resources)
	}
	held := maps.Clone(t.kept)
	if held == nil {
		held = make(keptBlobs, len(t.base))
	}
	for _, b := range t.base {
		if digest, ok := resource.AsDigest(b.Digest); ok {
			held[digest] = b
		}
	}
	blobs := make([]*gwv1.Blob, len(entries))
	used := 0
	for i, e := range entries {
		b, ok := t.received[e.Digest]
		if ok {
			used++
		} else if b, ok = held[e.Digest]; !ok {
			return Release{}, refusef("%s/%s: its bytes were not sent", e.Kind, e.Name)
		}
		if b.Kind != e.Kind || b.Name != e.Name {
			return Release{}, refusef("%s/%s: its digest is that of %s/%s", e.Kind, e.Name, b.Kind, b.Name)
		}
		blobs[i] = b
	}
	if used != len(t.received) {
		return Release{}, refusef("%d resources were sent that the manifest doesn't name", len(t.received)-used)
	}
	return Release{Target: t.header.Target, Namespace: t.namespace, Entries: entries, Blobs: blobs}, nil
}

// keptBlobs are blobs that came, and were verified, before a transfer was cut off.
type keptBlobs map[resource.Digest]*gwv1.Blob

// maxKept bounds the blobs that a hub is told of; each takes 32 bytes of the request.
const maxKept = 16_384

// digests returns what is kept as a request names it, in order.
func (k keptBlobs) digests() []byte {
	all := slices.SortedFunc(maps.Keys(k), func(a, b resource.Digest) int { return bytes.Compare(a[:], b[:]) })
	flat := make([]byte, 0, len(all)*len(resource.Digest{}))
	for _, d := range all {
		flat = append(flat, d[:]...)
	}
	return flat
}

// salvage returns what to keep of a transfer that didn't come to its end: what was kept before, and what came now, as far
// as the release that was being sent needs it.
func (t *transfer) salvage() keptBlobs {
	if t.header == nil {
		return t.kept
	}
	needed := make(map[resource.Digest]bool, len(t.manifest))
	for _, d := range t.manifest {
		needed[d] = true
	}
	kept := make(keptBlobs)
	for _, from := range []map[resource.Digest]*gwv1.Blob{t.kept, t.received} {
		for d, b := range from {
			if needed[d] && len(kept) < maxKept {
				kept[d] = b
			}
		}
	}
	return kept
}

// decoder is shared: DecodeAll may be called at the same time by many.
var decoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxPartLen))
})

// decompress returns exactly size bytes, never allocating much more than that.
func decompress(compressed []byte, size int) ([]byte, error) {
	d, err := decoder()
	if err != nil {
		return nil, err
	}
	data, err := d.DecodeAll(compressed, make([]byte, 0, size))
	if err != nil {
		return nil, err
	}
	if len(data) != size {
		return nil, fmt.Errorf("%d bytes, %d were announced", len(data), size)
	}
	return data, nil
}
