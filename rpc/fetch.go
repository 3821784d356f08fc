package rpc

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"

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

// FetchRelease sends the target release of the edge's namespace.
func (s *EdgeServer) FetchRelease(ctx context.Context, r *gwv1.FetchReleaseRequest, stream *connect.ServerStream[gwv1.FetchReleaseResponse]) error {
	who, err := s.edgeOf(ctx)
	if err != nil {
		return err
	}
	st, err := s.read(ctx)
	if err != nil {
		return err
	}
	target, _ := st.Target(who.Namespace)
	base := baseOf(st, who.Namespace, r.BaseChecksum)
	header := &gwv1.ReleaseHeader{Target: targetOf(st, who.Namespace), Namespace: who.Namespace}
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
		blobs = append(blobs, &gwv1.Blob{Digest: after.Digest, Kind: after.Kind, Name: after.Name, Spec: after.Spec})
		header.BlobBytes += uint64(len(after.Spec))
	}
	header.Blobs = uint32(len(blobs))
	if err := stream.Send(&gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Header{Header: header}}); err != nil {
		return err
	}
	if err := sendManifest(&manifest, stream.Send); err != nil {
		return err
	}
	if err := sendBlobs(blobs, stream.Send); err != nil {
		return err
	}
	return stream.Send(&gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_End{End: &gwv1.ReleaseEnd{}}})
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

type sender func(*gwv1.FetchReleaseResponse) error

// sendManifest sends at least one part, so that an edge need not tell an empty difference from a missing one.
func sendManifest(whole *gwv1.ManifestPart, send sender) error {
	for first := true; first || len(whole.Upserts)+len(whole.Removals) > 0; first = false {
		upserts := min(entriesPerPart, len(whole.Upserts))
		removals := min(entriesPerPart-upserts, len(whole.Removals))
		part := &gwv1.ManifestPart{Upserts: whole.Upserts[:upserts], Removals: whole.Removals[:removals]}
		whole.Upserts, whole.Removals = whole.Upserts[upserts:], whole.Removals[removals:]
		if err := send(&gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Manifest{Manifest: part}}); err != nil {
			return err
		}
	}
	return nil
}

func sendBlobs(blobs []*gwv1.Blob, send sender) error {
	var buffer, one bytes.Buffer
	flush := func() error {
		if buffer.Len() == 0 {
			return nil
		}
		encoder, err := compressor()
		if err != nil {
			return fmt.Errorf("make a compressor: %w", err)
		}
		part := &gwv1.BlobPart{Zstd: encoder.EncodeAll(buffer.Bytes(), nil), Size: uint32(buffer.Len())}
		buffer.Reset()
		return send(&gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Blobs{Blobs: part}})
	}
	for _, b := range blobs {
		one.Reset()
		if _, err := protodelim.MarshalTo(&one, b); err != nil {
			return fmt.Errorf("encode %s/%s: %w", b.Kind, b.Name, err)
		}
		if buffer.Len()+one.Len() > maxPart {
			if err := flush(); err != nil {
				return err
			}
		}
		buffer.Write(one.Bytes())
	}
	return flush()
}

// compressor is used by all; EncodeAll is safe for concurrent use and keeps nothing.
var compressor = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
})
