package uplink

import (
	"testing"
	"time"

	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

func TestRotatedSecretServesThoughTheReleaseCanNotBeFetched(t *testing.T) {
	h := newFakeHub(t)
	e := newTestEdge(t, h)
	e.needs = []string{"key"}
	h.do(func() { h.secrets = []*gwv1.SecretValue{{Name: "key", Version: 1, Value: []byte("one")}} })
	h.push(map[string]string{"a": "1"})
	e.start()
	e.awaitRelease(1)
	h.do(func() {
		h.mangle = func(p *gwv1.FetchReleaseResponse) {
			if header := p.GetHeader(); header != nil {
				wrong := resource.DigestOf("API", "a", nil)
				header.Target = &gwv1.Target{Epoch: 1, Number: header.Target.Number, Checksum: wrong[:]}
			}
		}
	})
	h.push(map[string]string{"a": "2"})
	receive(t, "a heartbeat with the fault", h.beats, func(b *gwv1.HeartbeatRequest) bool { return b.ApplyError != nil })
	h.do(func() {
		h.access++
		h.secrets = []*gwv1.SecretValue{{Name: "key", Version: 2, Value: []byte("two")}}
		h.changes = append(h.changes, &gwv1.AccessChange{Version: h.access, Change: &gwv1.AccessChange_ChangedSecret{ChangedSecret: "key"}})
	})
	deadline := time.Now().Add(patience)
	for v := ""; v != "two"; v, _ = e.uplink.Secret("key") {
		if time.Now().After(deadline) {
			t.Fatal("the new value didn't come")
		}
		h.awaitTicks(1)
	}
	if got := e.uplink.c.Loaded().Number; got != 1 {
		t.Errorf("release %d serves, want 1: the fault was gone before the secret came", got)
	}
}
