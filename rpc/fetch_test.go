package rpc

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"testing"

	"connectrpc.com/connect"
	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protodelim"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// fetched is a release as an edge receives it.
type fetched struct {
	header            *gwv1.ReleaseHeader
	upserts, removals []*gwv1.ManifestEntry
	blobs             map[resource.Digest]*gwv1.Blob
	parts             int
}

// fetch receives the target release, and checks what must hold of every transfer.
func (e *testEdge) fetch(t testing.TB, base []byte, held ...resource.Digest) *fetched {
	t.Helper()
	r := &gwv1.FetchReleaseRequest{BaseChecksum: base}
	for _, d := range held {
		r.Held = append(r.Held, d[:]...)
	}
	stream, err := e.FetchRelease(t.Context(), r)
	must(t, err)
	defer stream.Close()
	f := &fetched{blobs: map[resource.Digest]*gwv1.Blob{}}
	decoder, err := zstd.NewReader(nil)
	must(t, err)
	defer decoder.Close()
	ended := false
	var bytesOfBlobs uint64
	for stream.Receive() {
		if ended {
			t.Fatal("something comes after the end")
		}
		switch p := stream.Msg().Part.(type) {
		case *gwv1.FetchReleaseResponse_Header:
			f.header = p.Header
		case *gwv1.FetchReleaseResponse_Manifest:
			f.upserts, f.removals = append(f.upserts, p.Manifest.Upserts...), append(f.removals, p.Manifest.Removals...)
		case *gwv1.FetchReleaseResponse_Blobs:
			f.parts++
			if len(p.Blobs.Zstd) > 1<<20 || p.Blobs.Size > 8<<20 {
				t.Errorf("a part has %d bytes, %d uncompressed", len(p.Blobs.Zstd), p.Blobs.Size)
			}
			plain, err := decoder.DecodeAll(p.Blobs.Zstd, nil)
			must(t, err)
			if len(plain) != int(p.Blobs.Size) {
				t.Errorf("a part of %d bytes says %d", len(plain), p.Blobs.Size)
			}
			for r := bytes.NewReader(plain); r.Len() > 0; {
				b := &gwv1.Blob{}
				must(t, protodelim.UnmarshalFrom(r, b))
				d, _ := resource.AsDigest(b.Digest)
				if resource.DigestOf(b.Kind, b.Name, b.Spec) != d {
					t.Fatalf("the blob of %s/%s is not what its digest says", b.Kind, b.Name)
				}
				f.blobs[d] = b
				bytesOfBlobs += uint64(len(b.Spec))
			}
		case *gwv1.FetchReleaseResponse_End:
			ended = true
		}
	}
	must(t, stream.Err())
	if !ended || int(f.header.Blobs) != len(f.blobs) || f.header.BlobBytes != bytesOfBlobs {
		t.Fatalf("ended %v; the header says %d blobs of %d bytes, %d of %d came", ended, f.header.Blobs, f.header.BlobBytes, len(f.blobs), bytesOfBlobs)
	}
	return f
}

// checksum is that of a manifest that came whole.
func (f *fetched) checksum() resource.Digest {
	return resource.Checksum(func(yield func(resource.Entry) bool) {
		for _, e := range f.upserts {
			d, _ := resource.AsDigest(e.Digest)
			if !yield(resource.Entry{Kind: e.Kind, Name: e.Name, Digest: d}) {
				return
			}
		}
	})
}

func TestFetchReleaseLeavesOutWhatAnEdgeHasKeptOfATransfer(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.apply(api("", "a", "/a"), api("", "b", "/b"), api("", "c", "/c"))
	h.push()
	whole := e.fetch(t, nil)
	kept, _ := resource.AsDigest(whole.upserts[1].Digest)
	rest := e.fetch(t, nil, kept, resource.Digest{1})
	if rest.header.Resources != 3 || len(rest.upserts) != 3 || len(rest.blobs) != 2 || rest.blobs[kept] != nil {
		t.Errorf("got %v with %d blobs, want all entries and all blobs but one", rest.header, len(rest.blobs))
	}
	if again := e.fetch(t, nil); len(again.blobs) != 3 {
		t.Errorf("who holds nothing gets %d blobs, want 3", len(again.blobs))
	}
	stream, err := e.FetchRelease(t.Context(), &gwv1.FetchReleaseRequest{Held: make([]byte, 33)})
	must(t, err)
	defer stream.Close()
	stream.Receive()
	h.refused(stream.Err(), connect.CodeInvalidArgument, ReasonInvalid, "held")
}

func TestFetchReleaseWholeAndAsADifference(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	if f := e.fetch(t, nil); f.header.Target.Number != 0 || !bytes.Equal(f.header.Target.Checksum, resource.EmptyChecksum[:]) || len(f.upserts) != 0 {
		t.Errorf("before a push: %v", f)
	}
	h.apply(api("", "a", "/a"), api("", "b", "/b"), api("", "c", "/c"))
	h.push()
	first := e.fetch(t, nil)
	if len(first.header.BaseChecksum) != 0 || first.header.Resources != 3 || len(first.blobs) != 3 || first.header.Namespace != "default" {
		t.Errorf("whole: %v", first.header)
	}
	if got := first.checksum(); !bytes.Equal(got[:], first.header.Target.Checksum) {
		t.Error("the manifest is not that of the target")
	}
	h.apply(api("", "b", "/b2"), api("", "d", "/d"))
	_, err := h.hub.Config.DeleteResources(h.as(RoleAdmin), &gwv1.DeleteResourcesRequest{Keys: []*gwv1.ResourceKey{{Kind: "API", Name: "a"}}})
	must(t, err)
	h.push()
	held := first.header.Target.Checksum
	d := e.fetch(t, held)
	if !bytes.Equal(d.header.BaseChecksum, held) || d.header.Resources != 3 || len(d.upserts) != 2 || d.upserts[0].Name != "b" || d.upserts[1].Name != "d" ||
		len(d.removals) != 1 || d.removals[0].Name != "a" || len(d.removals[0].Digest) != 0 || len(d.blobs) != 2 {
		t.Errorf("difference: %v %v %v", d.header, d.upserts, d.removals)
	}
	if f := e.fetch(t, bytes.Repeat([]byte{9}, 32)); len(f.header.BaseChecksum) != 0 || len(f.blobs) != 3 {
		t.Errorf("unknown base: %v, want all", f.header)
	}
	if f := e.fetch(t, d.header.Target.Checksum); len(f.upserts)+len(f.removals)+len(f.blobs) != 0 {
		t.Errorf("nothing differs: %v", f)
	}
}

func TestAnEdgeGetsItsOwnNamespaceOnly(t *testing.T) {
	h := newHarness(t)
	eu, us := h.enroll("eu", "e"), h.enroll("us", "u")
	h.apply(api("eu", "eu-only", "/x"), api("us", "us-only", "/x"), api("global", "shared", "/g"), api("global", "both", "/g"), api("eu", "both", "/eu"))
	h.push()
	names := func(f *fetched) (s string) {
		for _, u := range f.upserts {
			s += u.Name + " "
		}
		return s
	}
	whole := eu.fetch(t, nil)
	if got := names(whole); got != "both eu-only shared " {
		t.Errorf("eu got %q", got)
	}
	if got := names(us.fetch(t, nil)); got != "both shared us-only " {
		t.Errorf("us got %q", got)
	}
	// A checksum of another namespace is no base: it would tell what is there.
	if f := us.fetch(t, whole.header.Target.Checksum); len(f.header.BaseChecksum) != 0 || names(f) != "both shared us-only " {
		t.Errorf("with eu's checksum as base, us got %v", f.header)
	}
}

func TestAOneResourceEditOutOf10000TransfersLittle(t *testing.T) {
	h := newHarness(t)
	e := h.enroll("default", "e1")
	h.apply(many(10_000)...)
	h.push()
	whole := e.fetch(t, nil)
	if len(whole.blobs) != 10_000 || whole.parts < 2 {
		t.Fatalf("whole: %d blobs in %d parts", len(whole.blobs), whole.parts)
	}
	h.apply(api("", "api-05000", "/edited"))
	h.push()
	before := e.read.Load()
	d := e.fetch(t, whole.header.Target.Checksum)
	if got := e.read.Load() - before; got > 4<<10 {
		t.Errorf("%d bytes came over the wire for one edit, want at most 4 KiB", got)
	} else {
		t.Logf("%d bytes over the wire for one edit out of 10,000; %d for all of them", got, before)
	}
	if len(d.upserts) != 1 || d.upserts[0].Name != "api-05000" || d.header.Resources != 10_000 {
		t.Errorf("got %v %v", d.header, d.upserts)
	}
}

func TestPartsOfWhatCanNotBeCompressedStayUnder1MiB(t *testing.T) {
	var blobs []*gwv1.Blob
	for i := range 20 {
		noise := make([]byte, 300<<10)
		rand.Read(noise)
		blobs = append(blobs, &gwv1.Blob{Kind: "API", Name: fmt.Sprint(i), Spec: []byte(base64.RawStdEncoding.EncodeToString(noise)[:400<<10])})
		blobs = append(blobs, &gwv1.Blob{Kind: "API", Name: fmt.Sprint(i, "raw"), Spec: noise})
	}
	parts, err := blobParts(blobs)
	must(t, err)
	for i, p := range parts {
		if n := len(p.GetBlobs().Zstd); n > 1<<20 {
			t.Errorf("part %d has %d bytes", i, n)
		}
	}
	if len(parts) < 10 {
		t.Errorf("%d parts", len(parts))
	}
}

func TestATransferIsBuiltOnceForAllEdges(t *testing.T) {
	h := newHarness(t)
	h.apply(api("", "a", "/a"))
	h.push()
	st := h.store.State()
	target, _ := st.Target("default")
	var cache transfers
	first, err := cache.of("default", nil, target, nil)
	must(t, err)
	if again, err := cache.of("default", nil, target, nil); err != nil || again[0] != first[0] {
		t.Error("it was built again")
	}
	for i := range 3 * maxTransfers {
		if other, err := cache.of(fmt.Sprint(i), nil, target, nil); err != nil || other[0].GetHeader().Namespace != fmt.Sprint(i) {
			t.Errorf("namespace %d got %v, %v", i, other[0], err)
		}
	}
	if len(cache.recent) != maxTransfers {
		t.Errorf("%d are kept", len(cache.recent))
	}
}

// FuzzPageToken: no token a caller makes up does more than be refused.
func FuzzPageToken(f *testing.F) {
	f.Add("")
	f.Add(base64.RawURLEncoding.EncodeToString([]byte("default\x00API\x00a")))
	f.Add("!!")
	f.Fuzz(func(t *testing.T, token string) {
		after, err := afterToken(token)
		if err == nil && token != "" && bytes.Count([]byte(after), []byte{0}) != 2 {
			t.Errorf("%q was taken as %q", token, after)
		}
	})
}
