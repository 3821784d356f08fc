package rpc

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

const (
	entriesPerPart = 5000
	// maxPart is how many bytes of blobs go into a part before compression. What can't be compressed grows by a few
	// bytes, so that every part stays under 1 MiB.
	maxPart = 1<<20 - 16<<10
)

// FetchRelease sends the target release of the edge's namespace. A hub that doesn't lead does so for an edge that asks
// for what that hub has, if it has what the edge was told to run: a release is named by its checksum, so that it doesn't
// matter whose bytes they are.
func (s *EdgeServer) FetchRelease(ctx context.Context, r *gwv1.FetchReleaseRequest, stream *connect.ServerStream[gwv1.FetchReleaseResponse]) error {
	who, st, err := s.enter(ctx)
	if err != nil {
		return err
	}
	if !stale(ctx) {
		if e := s.gates.fetches.admit(); e != nil {
			e.FetchURLs = s.otherHubs()
			return e
		}
	}
	target, _ := st.Target(who.Namespace)
	if want := r.Target; stale(ctx) && (target == nil || before(target, want)) {
		return &Error{Reason: ReasonPrecondition, Message: fmt.Sprintf("this hub does not have release %d yet", want.GetNumber())}
	}
	base := baseOf(st, who.Namespace, r.BaseChecksum)
	held, err := heldOf(r.Held)
	if err != nil {
		return err
	}
	messages, err := s.transfers.of(who.Namespace, base, target, held)
	if err != nil {
		return err
	}
	for _, m := range messages {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	return nil
}

// heldOf reads the digests of blobs that an edge has kept of a transfer that was cut off.
func heldOf(digests []byte) (map[resource.Digest]bool, error) {
	const size = len(resource.Digest{})
	if len(digests)%size != 0 {
		return nil, invalid("held", ReasonInvalid, "is %d bytes long; digests have %d each", len(digests), size)
	}
	held := make(map[resource.Digest]bool, len(digests)/size)
	for d := range slices.Chunk(digests, size) {
		held[resource.Digest(d)] = true
	}
	return held, nil
}

// before reports whether a release comes before what an edge was told to run.
func before(r *state.Release, want *gwv1.Target) bool {
	if r.Epoch != want.GetEpoch() {
		return r.Epoch < want.GetEpoch()
	}
	return r.Number < want.GetNumber()
}

// otherHubs returns where edges reach the cluster's hubs but this one.
func (k *core) otherHubs() (urls []string) {
	for _, u := range k.hubURLs() {
		if u != "https://"+k.address {
			urls = append(urls, u)
		}
	}
	return urls
}

// transferOf builds what is sent to an edge that holds base and shall have target, either of which may be nil, and has
// kept the blobs with these digests.
func transferOf(namespace string, base, target *state.Release, held map[resource.Digest]bool) (messages []*gwv1.FetchReleaseResponse, err error) {
	header := &gwv1.ReleaseHeader{Target: shownTarget(target), Namespace: namespace}
	if base != nil {
		header.BaseChecksum = base.Checksum[:]
	}
	if target != nil {
		header.Resources = uint32(target.Len())
	}
	var manifest gwv1.ManifestPart
	var blobs []*gwv1.Blob
	for before, after := range difference(entriesIn(base), entriesIn(target)) {
		if after == nil {
			manifest.Removals = append(manifest.Removals, &gwv1.ManifestEntry{Kind: before.Kind, Name: before.Name})
			continue
		}
		manifest.Upserts = append(manifest.Upserts, &gwv1.ManifestEntry{Kind: after.Kind, Name: after.Name, Digest: after.Digest})
		if d, ok := resource.AsDigest(after.Digest); ok && held[d] {
			continue
		}
		blobs = append(blobs, &gwv1.Blob{Digest: after.Digest, Kind: after.Kind, Name: after.Name, Spec: after.Spec})
		header.BlobBytes += uint64(len(after.Spec))
	}
	header.Blobs = uint32(len(blobs))
	messages = append(messages, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Header{Header: header}})
	messages = append(messages, manifestParts(&manifest)...)
	parts, err := blobParts(blobs)
	if err != nil {
		return nil, err
	}
	messages = append(messages, parts...)
	return append(messages, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_End{End: &gwv1.ReleaseEnd{}}}), nil
}

// baseOf finds the kept release of a namespace that an edge holds; nil if there is none, or nothing is in it.
func baseOf(st *state.State, namespace string, checksum []byte) *state.Release {
	held, ok := resource.AsDigest(checksum)
	if !ok || held == resource.EmptyChecksum {
		return nil
	}
	for r := range st.Releases(namespace) {
		if r.Checksum == held {
			return r
		}
	}
	return nil
}

// manifestParts has at least one part, so that an edge need not tell an empty difference from a missing one.
func manifestParts(whole *gwv1.ManifestPart) (parts []*gwv1.FetchReleaseResponse) {
	for len(parts) == 0 || len(whole.Upserts)+len(whole.Removals) > 0 {
		upserts := min(entriesPerPart, len(whole.Upserts))
		removals := min(entriesPerPart-upserts, len(whole.Removals))
		part := &gwv1.ManifestPart{Upserts: whole.Upserts[:upserts], Removals: whole.Removals[:removals]}
		whole.Upserts, whole.Removals = whole.Upserts[upserts:], whole.Removals[removals:]
		parts = append(parts, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Manifest{Manifest: part}})
	}
	return parts
}

func blobParts(blobs []*gwv1.Blob) (parts []*gwv1.FetchReleaseResponse, err error) {
	encoder, err := compressor()
	if err != nil {
		return nil, fmt.Errorf("make a compressor: %w", err)
	}
	var buffer, one bytes.Buffer
	flush := func() {
		if buffer.Len() > 0 {
			part := &gwv1.BlobPart{Zstd: encoder.EncodeAll(buffer.Bytes(), nil), Size: uint32(buffer.Len())}
			parts = append(parts, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Blobs{Blobs: part}})
		}
		buffer.Reset()
	}
	for _, b := range blobs {
		one.Reset()
		if _, err := protodelim.MarshalTo(&one, b); err != nil {
			return nil, fmt.Errorf("encode %s/%s: %w", b.Kind, b.Name, err)
		}
		if buffer.Len()+one.Len() > maxPart {
			flush()
		}
		buffer.Write(one.Bytes())
	}
	flush()
	return parts, nil
}

// compressor is used by all; EncodeAll is safe for concurrent use and keeps nothing.
var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
})

const (
	// maxTransfers bounds how many transfers are kept: a push of all namespaces is one for each, and for each release
	// that edges hold. maxKept bounds their bytes, and maxTransfer those of one.
	maxTransfers = 64
	maxKept      = 32 << 20
	maxTransfer  = 16 << 20
	// maxSmall is how many bytes of a difference travel with a tick.
	maxSmall = 32 << 10
)

// transfers keeps the transfers built last. After a push every edge of a namespace asks for the same one, and building
// it means looking at every resource.
type transfers struct {
	mu     sync.Mutex
	recent []*transfer // guarded by mu; the one used last is the last
}

// transfer is built once, by whoever asks first.
type transfer struct {
	namespace    string
	base, target *state.Release // immutable, so that the pointers identify them
	built        func() (built, error)
	size         int // of what is built, once it is; guarded by transfers.mu
}

// built is the messages of a transfer, which must not be changed, and their bytes.
type built struct {
	messages []*gwv1.FetchReleaseResponse
	size     int
}

// of returns the messages from base to target, without the blobs that are held; they must not be changed. Only those for
// who holds none are kept: every edge has its own way of being cut off.
func (t *transfers) of(namespace string, base, target *state.Release, held map[resource.Digest]bool) ([]*gwv1.FetchReleaseResponse, error) {
	if len(held) > 0 {
		return transferOf(namespace, base, target, held)
	}
	b, err := t.find(namespace, base, target).built()
	return b.messages, err
}

// small is of for transfers of no more than maxSmall bytes, nil for others and those that can't be built.
func (t *transfers) small(namespace string, base, target *state.Release) []*gwv1.FetchReleaseResponse {
	b, err := t.find(namespace, base, target).built()
	if err != nil || b.size > maxSmall {
		return nil
	}
	return b.messages
}

func (t *transfers) find(namespace string, base, target *state.Release) *transfer {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, x := range t.recent {
		if x.namespace == namespace && x.base == base && x.target == target {
			t.recent = append(slices.Delete(t.recent, i, i+1), x)
			return x
		}
	}
	x := &transfer{namespace: namespace, base: base, target: target}
	x.built = sync.OnceValues(func() (built, error) {
		messages, err := transferOf(namespace, base, target, nil)
		size := 0
		for _, m := range messages {
			size += proto.Size(m)
		}
		t.settle(x, size, err == nil && size <= maxTransfer)
		return built{messages, size}, err
	})
	if len(t.recent) == maxTransfers {
		t.recent = slices.Delete(t.recent, 0, 1)
	}
	t.recent = append(t.recent, x)
	return x
}

// settle keeps a transfer that was built, at the cost of those that were not used for longest; or it doesn't.
func (t *transfers) settle(x *transfer, size int, keep bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if x.size = size; !keep {
		t.recent = slices.DeleteFunc(t.recent, func(other *transfer) bool { return other == x })
	}
	total := 0
	for i, kept := range slices.Backward(t.recent) {
		if total += kept.size; total > maxKept {
			t.recent = slices.Delete(t.recent, 0, i+1)
			return
		}
	}
}
