package node

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	"gw/raftstore"
	"gw/raftstore/state"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// force gives a namespace a release that no edge can load. No hub makes one: it is made in a backup, which is restored.
// The working configuration of the namespace can't be pushed until a later step has repaired it.
func (p *pusher) force(namespace string) {
	p.c.t.Helper()
	p.steps.Lock()
	defer p.steps.Unlock()
	file := filepath.Join(p.c.dir, "forced.gwb")
	p.c.gw(p.c.leader(), "backup", "-f", file)
	number := forceIn(p.c.t, file, namespace)
	p.c.gw(p.c.leader(), "restore", file, "--yes")
	p.avoid, p.patience = namespace, 5+p.random.IntN(10)
	p.made(namespace, released{number: number, bad: true, content: content{mark: "none that loads"}})
}

// repair makes the namespace's configuration one that loads.
func (p *pusher) repair() {
	p.delete(p.avoid, "bad")
	p.avoid = ""
}

// settle releases everywhere what is saved, all of which loads.
func (p *pusher) settle() {
	p.steps.Lock()
	defer p.steps.Unlock()
	if p.avoid != "" {
		p.repair()
	}
	p.save(false, false, p.namespaces...)
	p.push()
}

// forceIn adds the release to the state in a file, and returns its number.
func forceIn(t *testing.T, file, namespace string) uint64 {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	st, err := raftstore.VerifyBackup(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(&gwv1.APISpec{
		Paths: []string{"/bad"}, Auth: gwv1.Auth_AUTH_KEYLESS, Upstreams: []*gwv1.Upstream{{Url: "ftp://nowhere", Weight: proto.Uint32(1)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	digest := resource.DigestOf("API", "bad", spec)
	st = applied(t, st, &gwv1.Command{Body: &gwv1.Command_ChangeResources{ChangeResources: &gwv1.ChangeResources{
		Edits: []*gwv1.ResourceEdit{{Kind: "API", Namespace: namespace, Name: "bad", Digest: digest[:], Spec: spec}},
	}}})
	sum := resource.Checksum(func(yield func(resource.Entry) bool) {
		for r := range st.Effective(namespace) {
			d, _ := resource.AsDigest(r.Digest)
			if !yield(resource.Entry{Kind: r.Kind, Name: r.Name, Digest: d}) {
				return
			}
		}
	})
	st = applied(t, st, &gwv1.Command{Body: &gwv1.Command_PushReleases{PushReleases: &gwv1.PushReleases{
		Namespaces: []*gwv1.NamespaceChecksum{{Namespace: namespace, Checksum: sum[:]}}, Note: "forced",
	}}})
	var b bytes.Buffer
	z, err := zstd.NewWriter(&b)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Encode(z); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	target, _ := st.Target(namespace)
	return target.Number
}

func applied(t *testing.T, st *state.State, c *gwv1.Command) *state.State {
	t.Helper()
	c.Actor, c.ProposedAt = "test", time.Now().UnixNano()
	next, result, _ := st.Apply(st.Index()+1, c)
	if r := result.GetRefusal(); r != nil {
		t.Fatal(fmt.Errorf("%T: %s", c.Body, r.Message))
	}
	return next
}
