package uplink

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// put runs the parts of a release through a transfer onto base (nil: nothing held).
func put(base *Release, parts []*gwv1.FetchReleaseResponse) (Release, error) {
	t := &transfer{namespace: "default", running: &gwv1.Target{}}
	if base != nil {
		t.running, t.base, t.baseSum = base.Target, base.Blobs, base.Target.Checksum
	}
	for _, p := range parts {
		if err := t.part(p); err != nil {
			return Release{}, err
		}
	}
	return t.release()
}

func contents(r Release) string {
	var all []string
	for i, b := range r.Blobs {
		all = append(all, b.Name+"="+string(b.Spec))
		if r.Entries[i].Name != b.Name {
			all = append(all, "OUT OF ORDER")
		}
	}
	return strings.Join(all, " ")
}

func TestTransfer(t *testing.T) {
	base := makeRelease("default", 1, 1, map[string]string{"a": "1", "b": "1", "c": "1"})
	for name, specs := range map[string]map[string]string{
		"one changed":   {"a": "1", "b": "2", "c": "1"},
		"one removed":   {"a": "1", "c": "1"},
		"one added":     {"a": "1", "b": "1", "c": "1", "d": "1"},
		"all removed":   {},
		"all of it new": {"x": "1", "y": "2"},
		"nothing":       {"a": "1", "b": "1", "c": "1"},
	} {
		want := makeRelease("default", 1, 2, specs)
		for _, from := range []*Release{nil, &base} {
			got, err := put(from, partsOf(want, from))
			if err != nil || contents(got) != contents(want) {
				t.Errorf("%s, onto a base: %v: got %q, %v, want %q", name, from != nil, contents(got), err, contents(want))
			}
		}
	}
}

// With a base at hand a hub may still send everything: it forgot the base.
func TestWholeReleaseOntoABase(t *testing.T) {
	base := makeRelease("default", 1, 1, map[string]string{"a": "1", "b": "1"})
	want := makeRelease("default", 1, 2, map[string]string{"a": "1", "c": "1"})
	if got, err := put(&base, partsOf(want, nil)); err != nil || contents(got) != "a=1 c=1" {
		t.Errorf("got %q, %v", contents(got), err)
	}
}

func TestTransferRefuses(t *testing.T) {
	base := makeRelease("default", 1, 1, map[string]string{"a": "1"})
	bomb, _ := zstd.NewWriter(nil)
	bytes64M := bomb.EncodeAll(make([]byte, 64<<20), nil)
	for name, spoil := range map[string]func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse{
		"no end":      func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return p[:len(p)-1] },
		"no header":   func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return p[1:] },
		"two headers": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return append(p[:1], p...) },
		"after end":   func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return append(p, p[2]) },
		"no manifest": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return slices.Delete(p, 1, 2) },
		"no blobs":    func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return slices.Delete(p, 2, 3) },
		"blobs twice": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse { return slices.Insert(p, 3, p[2]) },
		"unknown part": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[1] = &gwv1.FetchReleaseResponse{}
			return p
		},
		"bomb": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().BlobBytes = maxReleaseLen
			p[2] = &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_Blobs{Blobs: &gwv1.BlobPart{Zstd: bytes64M, Size: 100}}}
			return p
		},
		"part too large": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().BlobBytes = maxReleaseLen
			p[2].GetBlobs().Size = maxPartLen + 1
			return p
		},
		"more than announced": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().BlobBytes = 0
			return p
		},
		"release too large": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().BlobBytes = maxReleaseLen + 1
			return p
		},
		"too many resources": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().Resources = maxResources + 1
			return p
		},
		"another base": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().BaseChecksum = make([]byte, 32)
			return p
		},
		"blob of another name": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[1].GetManifest().Upserts[0].Name = "z"
			return p
		},
		"short digest": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[1].GetManifest().Upserts[0].Digest = []byte{1}
			return p
		},
		"short checksum": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().Target.Checksum = []byte{1}
			return p
		},
		"no target": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().Target = nil
			return p
		},
		"the release that runs": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().Target.Number = 1
			return p
		},
		"other namespace": func(p []*gwv1.FetchReleaseResponse) []*gwv1.FetchReleaseResponse {
			p[0].GetHeader().Namespace = "other"
			return p
		},
	} {
		release := makeRelease("default", 1, 2, map[string]string{"a": "1", "b": "2"})
		parts := partsOf(release, &base)
		for i := range parts {
			parts[i] = proto.CloneOf(parts[i])
		}
		got, err := put(&base, spoil(parts))
		var f *ApplyFailure
		if !errors.As(err, &f) || f.final() {
			t.Errorf("%s: got %q, %v, want a failure to fetch or verify", name, contents(got), err)
		}
	}
}

// FuzzTransfer sends arbitrary parts: nothing may panic, and whatever is accepted must be exactly what its target says.
func FuzzTransfer(f *testing.F) {
	base := makeRelease("default", 1, 1, map[string]string{"a": "1", "b": "1"})
	for _, specs := range []map[string]string{{}, {"a": "1"}, {"a": "2", "b": "1", "c": "3"}} {
		release := makeRelease("default", 1, 2, specs)
		for _, parts := range [][]*gwv1.FetchReleaseResponse{partsOf(release, &base), partsOf(release, nil)} {
			var seed [4][]byte
			for i, p := range parts[:min(4, len(parts))] {
				seed[i], _ = proto.Marshal(p)
			}
			f.Add(seed[0], seed[1], seed[2], seed[3])
		}
	}
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		var parts []*gwv1.FetchReleaseResponse
		for _, data := range [][]byte{a, b, c, d} {
			p := &gwv1.FetchReleaseResponse{}
			if proto.Unmarshal(data, p) != nil {
				return
			}
			parts = append(parts, p)
		}
		parts = append(parts, &gwv1.FetchReleaseResponse{Part: &gwv1.FetchReleaseResponse_End{End: &gwv1.ReleaseEnd{}}})
		r, err := put(&base, parts)
		if err != nil {
			return
		}
		for i, b := range r.Blobs {
			if d := resource.DigestOf(b.Kind, b.Name, b.Spec); d != r.Entries[i].Digest || b.Kind != r.Entries[i].Kind || b.Name != r.Entries[i].Name {
				t.Fatalf("accepted %v for %v", b, r.Entries[i])
			}
		}
		if sum := resource.Checksum(slices.Values(r.Entries)); string(sum[:]) != string(r.Target.Checksum) || r.Namespace != "default" {
			t.Fatalf("accepted %v", r)
		}
	})
}

func TestHubListFollowsWhatHubsSay(t *testing.T) {
	var l hubList
	l.add("https://a:1")
	l.rotate()
	if !l.told([]string{"https://b:1", "https://c:1", "http://clear:1", "nonsense"}, []string{"https://a:1"}) || l.current() != "https://a:1" {
		t.Errorf("got %+v", l)
	}
	if l.told([]string{"https://b:1", "https://c:1"}, []string{"https://a:1"}) {
		t.Error("the same again is no change")
	}
	var tried []string
	for range 3 {
		tried = append(tried, l.current())
		l.rotate()
	}
	if want := []string{"https://a:1", "https://b:1", "https://c:1"}; !slices.Equal(tried, want) {
		t.Errorf("tried %v, want %v", tried, want)
	}
	l.rotate() // on to b
	l.told([]string{"https://c:1", "https://d:1"}, nil)
	if got := slices.Sorted(slices.Values(l.urls)); l.current() != "https://b:1" || !slices.Equal(got, []string{"https://b:1", "https://c:1", "https://d:1"}) {
		t.Errorf("the current one is kept until it fails: got %+v", l)
	}
	many := make(map[string]bool)
	for i := range 100 {
		many["https://h:"+strings.Repeat("1", i%5)+string(rune('0'+i%10))] = true
		l.told(slices.Collect(maps.Keys(many)), nil)
	}
	if l.len() > maxHubs {
		t.Errorf("%d hubs are remembered", l.len())
	}
}
